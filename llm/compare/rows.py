"""Messages and answers of a run, and what became of them in another run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm.common import files
from llm.common.errors import DATA, UserError
from llm.compare.snapshot import AGAIN, Row, Snapshot

PREDICTIONS, MESSAGES = "reports/finetune_spam/predictions.csv", "data/spam"
CALIBRATION = "reports/finetune_spam/calibration.csv"
RESPONSES, SCORES = "reports/respond/responses.json", "reports/evaluate_with_judge/scores.json"
ANSWER = "model_response"
TEST = "test"


@dataclass(frozen=True)
class Message:
    """A classified message of the test split."""

    row: int
    actual: str
    predicted: str
    probability: float | None  # of the predicted class
    text: str | None = None  # None: not in DVC's cache

    @property
    def key(self) -> tuple[int, str]:
        """What is the same in another run on the same test split."""
        return self.row, self.actual

    @property
    def right(self) -> bool:
        return self.actual == self.predicted


@dataclass(frozen=True)
class Answer:
    """An answer to a test instruction. Equal questions are numbered by `again`."""

    question: str
    reference: str
    text: str
    score: float | None  # None: not scored
    again: int = 0

    @property
    def key(self) -> tuple[str, str, int]:
        """What is the same in another run on the same test split."""
        return self.question, self.reference, self.again

    @property
    def exact(self) -> bool:
        return self.text.strip() == self.reference.strip()


@dataclass(frozen=True)
class Pair:
    """The same message or question in two runs."""

    first: Any
    second: Any


def messages(snapshot: Snapshot) -> list[Message]:
    """The classified messages of the test split, without their texts; empty if the stage has not run."""
    rows = (row for row in snapshot.rows(PREDICTIONS) if row.get("split") == TEST)
    try:
        return [
            Message(int(row["row"]), row["actual"], row["predicted"], probability(row, row["predicted"]))
            for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(snapshot, PREDICTIONS, error) from None


def probability(row: Mapping[str, str], label: str) -> float | None:
    """The probability of a class in a row of predictions.csv, or None if it is not there.

    There is a column `p_<class>` for each class, or `spam_probability` alone.
    """
    if f"p_{label}" in row:
        return float(row[f"p_{label}"])
    named = [name for name in row if name.endswith("_probability")]
    if f"{label}_probability" in named:
        return float(row[f"{label}_probability"])
    return 1 - float(row[named[0]]) if len(named) == 1 else None


def texts(snapshot: Snapshot) -> list[str]:
    """The messages of the test split in order; empty if it was cut anew since, or DVC's cache does not have it."""
    if not snapshot.hashes(MESSAGES, "outs") <= snapshot.hashes(MESSAGES, "deps"):
        return []
    found = files.csv_rows(snapshot.data_text(f"{MESSAGES}/{TEST}.csv") or "")
    return [row.get("Text") or list(row.values())[-1] for row in found]


def with_texts(found: Sequence[Message], known: Sequence[str]) -> list[Message]:
    """The messages with their texts from `texts`."""
    return [replace(one, text=known[one.row] if one.row < len(known) else None) for one in found]


def same_messages(first: Snapshot, second: Snapshot) -> bool:
    """Whether both runs classified the same messages: both read data/spam with the same hash."""
    known = first.hashes(MESSAGES, "deps")
    return bool(known) and known == second.hashes(MESSAGES, "deps")


def answers(snapshot: Snapshot) -> list[Answer]:
    """The answers with their scores; empty if the stage has not run."""
    scored = (row for row in snapshot.records(SCORES) if row.get("status") == "scored")
    scores = {row.get("index"): row.get("score") for row in scored}
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for index, row in enumerate(snapshot.records(RESPONSES)):
        try:
            question, reference = _question(row)
        except (KeyError, TypeError, IndexError) as error:
            raise _malformed(snapshot, RESPONSES, error) from None
        found.append(Answer(question, reference, row.get(ANSWER) or "", scores.get(index), seen[question, reference]))
        seen[question, reference] += 1
    return found


def pairs(first: Sequence[Any], second: Sequence[Any]) -> list[Pair]:
    """The messages or answers that are in both runs, in the order of the first."""
    others = {one.key: one for one in second}
    return [Pair(one, others[one.key]) for one in first if one.key in others]


def flips(found: Sequence[Pair]) -> list[Pair]:
    """Messages with another prediction: first those that became wrong, then those that became right."""
    changed = [pair for pair in found if pair.first.predicted != pair.second.predicted]
    return sorted(changed, key=lambda pair: (pair.second.right - pair.first.right, pair.first.row))


def changed_answers(found: Sequence[Pair]) -> list[Pair]:
    """Answers with another text or score, those with the largest change of the score first."""
    changed = [p for p in found if (p.first.text, p.first.score) != (p.second.text, p.second.score)]
    return sorted(changed, key=lambda pair: -abs((pair.second.score or 0) - (pair.first.score or 0)))


def _malformed(snapshot: Snapshot, path: str, error: Exception) -> UserError:
    what = f"has a row of another form ({type(error).__name__}: {error})"
    return UserError(snapshot.where(path), what, AGAIN, DATA)


def _question(row: Row) -> tuple[str, str]:
    """The question and the reference of an entry: instruction, input and output, or the turns of a chat."""
    if "messages" in row:
        turns: Any = row["messages"]
        asked = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns[:-1])
        return asked, turns[-1]["content"]
    if "instruction" in row:
        return "\n".join(filter(None, [row["instruction"], row.get("input")])), row.get("output", "")
    return json.dumps({key: value for key, value in row.items() if key != ANSWER}, ensure_ascii=False), ""
