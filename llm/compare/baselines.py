"""What a run's figures are worth: the same figures of answers that need no trained model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from llm.compare import curves, rows
from llm.compare.headlines import ACCURACY, JUDGE, LOSS, TUNED_LOSS, Figure, Value, Verdict, tested, value
from llm.compare.snapshot import Snapshot
from llm.evaluate.reference_score import reference_score
from llm.evaluate.stats import wilson


@dataclass(frozen=True)
class Baseline:
    """A figure of the model next to that of a baseline. The verdict is on the model."""

    figure: Figure
    what: str
    model: Value
    baseline: Value
    verdict: Verdict | None = None


def baselines(snapshot: Snapshot) -> list[Baseline]:
    """The baselines that the reports of a run allow."""
    found = [
        _before_training(LOSS, snapshot, "the model before training"),
        _majority(snapshot),
        _before_training(TUNED_LOSS, snapshot, "the model before fine-tuning"),
        _next_reference(snapshot),
    ]
    return [one for one in found if one is not None]


def _before_training(figure: Figure, snapshot: Snapshot, what: str) -> Baseline | None:
    first = [curve for curve in curves.read(snapshot).get(f"{figure.stage}/loss", []) if curve.column == figure.key]
    after = value(figure, snapshot)
    if not first or after.value is None or first[0].steps[0] != 0:
        return None
    return Baseline(figure, what, after, Value(first[0].values[0]))


def _majority(snapshot: Snapshot) -> Baseline | None:
    found = rows.messages(snapshot)
    if not found:
        return None
    label, hits = Counter(one.actual for one in found).most_common(1)[0]
    always = [float(one.actual == label) for one in found]
    verdict = tested(ACCURACY, always, [float(one.right) for one in found])
    baseline = Value(hits / len(found), wilson(hits, len(found)))
    what = f"always {label}, the most frequent class of the test split"
    return Baseline(ACCURACY, what, value(ACCURACY, snapshot), baseline, verdict)


def _next_reference(snapshot: Snapshot) -> Baseline | None:
    """Score the reference answer of the next question; only for the judge that is a formula."""
    if (snapshot.mapping(JUDGE.report) or {}).get("backend") != "reference":
        return None
    pairs = [
        (entry, answer.score)
        for entry, answer in zip(snapshot.records(rows.RESPONSES), rows.answers(snapshot), strict=True)
        if answer.score is not None and {"instruction", "output"} <= set(entry)
    ]
    if len(pairs) < 2:
        return None
    entries = [entry for entry, _ in pairs]
    others = [*entries[1:], entries[0]]
    scores = [
        float(reference_score(entry | {rows.ANSWER: other["output"]}))
        for entry, other in zip(entries, others, strict=True)
    ]
    verdict = tested(JUDGE, scores, [float(score) for _, score in pairs])
    what = "the reference answer of the next question"
    return Baseline(JUDGE, what, value(JUDGE, snapshot), Value(sum(scores) / len(scores)), verdict)


def confusion(snapshot: Snapshot) -> tuple[list[str], list[list[int]]]:
    """The classes, and how many messages of each class (row) were predicted as each class (column)."""
    found = rows.messages(snapshot)
    labels = sorted({one.actual for one in found} | {one.predicted for one in found})
    counts = Counter((one.actual, one.predicted) for one in found)
    return labels, [[counts[actual, predicted] for predicted in labels] for actual in labels]


def errors(snapshot: Snapshot) -> list[rows.Message]:
    """The messages that were classified wrongly with their texts, the most certain errors first."""
    wrong = [one for one in rows.messages(snapshot) if not one.right]
    if wrong:
        wrong = rows.with_texts(wrong, rows.texts(snapshot))
    return sorted(wrong, key=lambda one: -(one.probability or 0))
