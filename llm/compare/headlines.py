"""The five headline figures of a run, and whether two runs differ by more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from llm.compare import rows, targets
from llm.compare.snapshot import REPORTS, Snapshot
from llm.evaluate.paired import Difference, Interval, paired_difference, unpaired_interval
from llm.evaluate.stats import mcnemar, wilson

SIGNIFICANT = 0.05
STALE = "not run on this base"
Form = Literal["loss", "share", "score"]
Tone = Literal["better", "worse", "neutral"]


@dataclass(frozen=True)
class Figure:
    """A headline figure: where it is, and how to read it."""

    name: str
    short: str  # a heading of a few letters
    stage: str  # that writes it
    key: str
    form: Form

    @property
    def report(self) -> str:
        return f"{REPORTS}/{self.stage}/metrics.json"

    def show(self, value: float | None) -> str:
        """The value as text: `0.965`, `90.4 %`, `81.5`."""
        if value is None:
            return "–"
        return self._number(value) + (" %" if self.form == "share" else "")

    def show_interval(self, interval: Interval | None, signed: bool = False) -> str:
        """The interval as text, without the unit."""
        return " to ".join(self._number(end, "+" if signed else "") for end in interval or ())

    def show_difference(self, value: float) -> str:
        """The difference of two values as text, with its sign and without the unit."""
        return self._number(value, "+")

    def _number(self, value: float, sign: str = "") -> str:
        scale, digits = {"loss": (1, 3), "share": (100, 1), "score": (1, 1)}[self.form]
        return f"{scale * value:{sign}.{digits}f}"


FIGURES = (
    Figure("pretraining: validation loss", "pretrain loss", "pretrain", "val_loss", "loss"),
    Figure("spam: test accuracy", "spam acc.", "finetune_spam", "test_accuracy", "share"),
    Figure("instructions: validation loss", "instr. loss", "finetune_instruct", "val_loss", "loss"),
    Figure("answers equal to the reference", "exact", "respond", "n_exact", "share"),
    Figure("judge: mean score", "judge", "evaluate_with_judge", "score_mean", "score"),
)
LOSS, ACCURACY, TUNED_LOSS, EXACT, JUDGE = FIGURES
STAGES = tuple(figure.stage for figure in FIGURES)


@dataclass(frozen=True)
class Value:
    """A figure of one run; None: the run does not have it."""

    value: float | None
    interval: Interval | None = None
    stale: bool = False  # its stage has not run since an input changed
    other_tokens: bool = False  # a loss over other tokens than that of the commit that the run started from


@dataclass(frozen=True)
class Verdict:
    """What a person may conclude: `better, p = 0.01`, and how that was tested."""

    text: str
    tone: Tone
    how: str


OTHER_TOKENS = Verdict("not comparable", "neutral", "the losses are means over other tokens")
OTHER_JUDGE = Verdict("other judge", "neutral", "the scores are of two judges")


@dataclass(frozen=True)
class Line:
    """A figure of two runs."""

    figure: Figure
    first: Value
    second: Value
    difference: float | None
    interval: Interval | None  # of the difference
    verdict: Verdict

    @property
    def says_more(self) -> bool:
        """Whether the two runs may differ, so that a reader wants to know how they were compared."""
        other = self.first.value != self.second.value
        return self.difference is not None and (other or bool(self.difference) or self.interval is not None)


class Samples(NamedTuple):
    """The values of the same examples in two runs, in the same order."""

    first: list[float]
    second: list[float]
    left_out: int = 0  # examples that have a value in one of the runs only


def value(figure: Figure, snapshot: Snapshot) -> Value:
    """The figure of a run, with its 95 % interval where it has one."""
    found = _read(figure, snapshot.mapping(figure.report) or {})
    return found if found.value is None else replace(found, stale=figure.stage in snapshot.stale)


def over_other_tokens(figure: Figure, first: Snapshot, second: Snapshot) -> bool:
    """Whether the figure is a loss, over other tokens in the two runs."""
    return figure.form == "loss" and targets.differ(figure.stage, first, second)


def _read(figure: Figure, metrics: Mapping[str, Any]) -> Value:
    found = metrics.get(figure.key)
    if not isinstance(found, int | float):
        return Value(None)
    if figure is EXACT:
        hits, n = int(found), metrics.get("n_items")
        return Value(hits / n, wilson(hits, n)) if isinstance(n, int) and n >= hits >= 0 < n else Value(None)
    stem = figure.key.removesuffix("_mean")
    low, high = metrics.get(f"{stem}_ci95_low"), metrics.get(f"{stem}_ci95_high")
    return Value(found, None if low is None or high is None else (low, high))


def compare(first: Snapshot, second: Snapshot) -> list[Line]:
    """All headline figures of two runs with verdicts."""
    return [_line(figure, first, second) for figure in FIGURES]


def _line(figure: Figure, first: Snapshot, second: Snapshot) -> Line:
    before, after = value(figure, first), value(figure, second)
    stale = [side.title for side, found in ((first, before), (second, after)) if found.stale]
    difference, interval = None, None
    if before.value is None or after.value is None:
        missing = "neither run has it" if before.value is after.value is None else "only one run has it"
        verdict = Verdict("not comparable", "neutral", missing)
    elif stale:
        how = f"{figure.stage} has not run since an input changed, in {' and '.join(stale)}"
        verdict = Verdict(STALE, "neutral", how)
    elif over_other_tokens(figure, first, second):
        verdict = OTHER_TOKENS
    else:
        difference = after.value - before.value
        if figure.form == "loss":
            how = "one number per run: no pairs to test"
            if chosen := targets.other_batches(figure.stage, first, second):
                how += f"; perhaps of other validation batches, since {', '.join(chosen)} differs"
            verdict = Verdict("the same" if difference == 0 else "no test", "neutral", how)
        elif samples := _samples(figure, first, second):
            difference, interval, verdict = _paired(figure, difference, samples)
        else:
            interval, verdict = _unpaired(figure, before, after)
        if difference and figure is JUDGE and targets.other_judge(first, second):
            verdict = replace(OTHER_JUDGE, how=f"{OTHER_JUDGE.how}; {verdict.how}")
    return Line(figure, before, after, difference, interval, verdict)


def _paired(figure: Figure, difference: float, samples: Samples) -> tuple[float, Interval | None, Verdict]:
    """The comparison on the same examples. `difference` counts only if none is left out."""
    old, new, left_out = samples
    mean, interval = 0.0, None
    if old == new:
        verdict = Verdict("the same", "neutral", f"equal on each of the same {len(old)} {_unit(figure)}")
    else:
        found = paired_difference(old, new)
        mean, interval, verdict = found.mean, found.interval, _paired_verdict(figure, old, new, found)
    if left_out:  # the values shown are means of other answers
        which = "1 answer has" if left_out == 1 else f"{left_out} answers have"
        how = f"{verdict.how}; {which} a score in one run only, so the two means are not of the same answers"
        difference, verdict = mean, replace(verdict, how=how)
    return difference, interval, verdict


def tested(figure: Figure, old: Sequence[float], new: Sequence[float]) -> Verdict:
    """The verdict on the second of two series of values on the same examples."""
    return _paired_verdict(figure, old, new, paired_difference(old, new))


def _paired_verdict(figure: Figure, old: Sequence[float], new: Sequence[float], found: Difference) -> Verdict:
    up = sum(b > a for a, b in zip(old, new, strict=True))
    down = sum(b < a for a, b in zip(old, new, strict=True))
    p, test = (found.p, "permutation test") if figure is JUDGE else (mcnemar(down, up), "McNemar's exact test")
    how = f"{test} on the same {len(old)} {_unit(figure)}: {up} up, {down} down"
    if p >= SIGNIFICANT:
        return Verdict(f"within noise, {_show_p(p)}", "neutral", how)
    tone: Tone = "better" if (up > down if figure is not JUDGE else found.mean > 0) else "worse"
    return Verdict(f"{tone}, {_show_p(p)}", tone, how)


def _unpaired(figure: Figure, before: Value, after: Value) -> tuple[Interval | None, Verdict]:
    """The comparison of runs on other examples, by the interval of the difference."""
    how = f"unpaired: the runs have other {_unit(figure)}"
    if before.value is None or after.value is None or before.interval is None or after.interval is None:
        return None, Verdict("no test", "neutral", f"{how}, and no interval")
    low, high = interval = unpaired_interval(before.value, before.interval, after.value, after.interval)
    tone: Tone = "better" if low > 0 else "worse" if high < 0 else "neutral"
    text = "within noise, unpaired" if tone == "neutral" else f"{tone}, 95 % interval without 0"
    return interval, Verdict(text, tone, how)


def _samples(figure: Figure, first: Snapshot, second: Snapshot) -> Samples | None:
    """The value of each example in both runs; None if the examples are not the same."""
    if figure is ACCURACY and not rows.same_messages(first, second):
        return None
    before, after = (rows.messages(side) if figure is ACCURACY else rows.answers(side) for side in (first, second))
    found = rows.pairs(before, after)
    if not len(found) == len(before) == len(after):
        return None
    name = {ACCURACY: "right", EXACT: "exact", JUDGE: "score"}[figure]
    values = [(getattr(pair.first, name), getattr(pair.second, name)) for pair in found]
    both = [(float(old), float(new)) for old, new in values if old is not None and new is not None]
    left_out = sum((old is None) != (new is None) for old, new in values)
    return Samples([old for old, _ in both], [new for _, new in both], left_out) if both else None


def _unit(figure: Figure) -> str:
    return "messages" if figure is ACCURACY else "answers"


def _show_p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.3f}"
