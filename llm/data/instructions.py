"""The instructions of a project in normal form: settings, reading and splits (section 7.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from llm.common.errors import DATA, UserError, raise_first
from llm.common.files import read_json
from llm.common.params import Problem, fraction, positive
from llm.data.instruction_shapes import ROLES, Entry, Keys

T = TypeVar("T")
KEYS = ("instruction", "input", "output")
AGAIN = "run `dvc repro tokenize@instructions`"


@dataclass(frozen=True)
class InstructionsConfig:
    """Section `tokenize.instructions` of params.yaml."""

    format: Literal["guess", "json", "jsonl", "parquet"]
    shape: Literal["guess", "alpaca", "dolly", "messages", "sharegpt"] | Keys
    as_text: tuple[str, ...]  # keys whose numbers and lists are made text
    empty: Literal["refuse", "skip"]  # entries with an empty question or answer
    max_tokens: int | None  # of an entry in its prompt frame; None: model.context_length
    too_long: Literal["refuse", "skip", "truncate"]  # entries with more tokens
    train_fraction: float
    test_fraction: float  # the rest is the validation split

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "max_tokens")
        yield from fraction(self, "train_fraction", "test_fraction", zero=False)
        if (total := self.train_fraction + self.test_fraction) >= 1:
            yield "test_fraction", f"its sum with train_fraction is {total:g}", "lower one for the validation split"


def read_entries(path: Path) -> list[Entry]:
    """Read a JSON list of entries in normal form. `read_published` reads other forms.

    Raises UserError with the numbers, from 1, of entries that the stage `tokenize@instructions` would not write.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        what = "is an empty list" if entries == [] else f"contains {type(entries).__name__}, not a list of entries"
        raise UserError(str(path), what, AGAIN, DATA)
    what = f"is not an object of the texts {', '.join(KEYS)}, nor of messages that end with an answer"
    broken = [number for number, entry in enumerate(entries, start=1) if not _is_entry(entry)]
    raise_first([UserError(f"{path}: entry {number}", what, AGAIN, DATA) for number in broken], str(path))
    return entries


def refuse_empty(numbers: Sequence[int], path: str) -> None:
    """Raise UserError for the entries that have no question or no answer."""
    fix = "write it, remove the entry, or set tokenize.instructions.empty to skip"
    what = "its question or its answer is empty"
    raise_first([UserError(f"{path}: entry {number}", what, fix, DATA) for number in numbers], path)


def split_entries(entries: Sequence[T], train_fraction: float, test_fraction: float) -> dict[str, list[T]]:
    """Cut the entries into train, test and validation split, in order. Raises UserError if a split is empty."""
    train = int(len(entries) * train_fraction)
    test = train + int(len(entries) * test_fraction)
    parts = {"train": list(entries[:train]), "test": list(entries[train:test]), "validation": list(entries[test:])}
    for split, part in parts.items():
        if not part:
            what = f"empty, with {len(entries)} entries in all"
            raise UserError(f"the {split} split", what, "add entries, or change tokenize.instructions")
    return parts


def _is_entry(value: Any) -> bool:
    turns = value.get("messages") if isinstance(value, Mapping) else None
    if turns is None:
        return _is_of_texts(value, KEYS) and bool(value["instruction"].strip() and value["output"].strip())
    chat = isinstance(turns, list) and bool(turns) and all(_is_of_texts(turn, ("role", "content")) for turn in turns)
    return (
        chat
        and len(value) == 1
        and {turn["role"] for turn in turns} <= ROLES.keys()
        and turns[-1]["role"] == "assistant"
    )


def _is_of_texts(value: Any, keys: Sequence[str]) -> bool:
    return isinstance(value, Mapping) and set(value) == set(keys) and all(isinstance(t, str) for t in value.values())
