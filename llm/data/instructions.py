"""The instructions of a project in normal form: settings, reading and splits (section 7.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from llm.common.errors import DATA, UserError, collect_errors, raise_first
from llm.common.files import read_json
from llm.common.params import Problem, fraction, positive
from llm.data.decoding import has_lone_surrogate
from llm.data.instruction_shapes import ROLES, Entry, Keys

T = TypeVar("T")
KEYS = ("instruction", "input", "output")
TURN_KEYS = ("role", "content")
FIX = f"give each entry the keys {', '.join(KEYS)}, or messages"


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
    """Read a JSON list of entries in normal form: `instruction`, `input` and `output`, or `messages`.

    Raises UserError with the number of each invalid entry, counted from 1. `read_published` reads other forms.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        what = "is an empty list" if entries == [] else f"contains {type(entries).__name__}, not a list of entries"
        raise UserError(str(path), what, "write [{...}, ...]", DATA)
    problems: list[UserError] = []
    for number, entry in enumerate(entries, start=1):
        with collect_errors(problems):
            _check_entry(entry, f"{path}: entry {number}")
    raise_first(problems, str(path))
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


def _check_entry(entry: Any, where: str) -> None:
    if not isinstance(entry, Mapping):
        raise UserError(where, f"is {entry!r:.40}, not an object", FIX, DATA)
    if "messages" not in entry:
        _check_texts(entry, KEYS, where)
        empty = [key for key in ("instruction", "output") if not entry[key].strip()]
        if empty:
            raise UserError(where, f"{empty[0]} is empty", "write it, or remove the entry", DATA)
        return
    turns = entry["messages"]
    if set(entry) != {"messages"} or not isinstance(turns, list) or not turns:
        raise UserError(where, "has other keys than messages, or messages is not a list of turns", FIX, DATA)
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping):
            raise UserError(f"{where}, turn {number}", f"is {turn!r:.40}, not an object", FIX, DATA)
        _check_texts(turn, TURN_KEYS, f"{where}, turn {number}")
        if turn["role"] not in ROLES or not turn["content"].strip():
            what = f"role is {turn['role']!r:.40} and content is {turn['content']!r:.40}"
            raise UserError(f"{where}, turn {number}", what, f"name one of {', '.join(ROLES)}, and write a text", DATA)
    if turns[-1]["role"] != "assistant":
        raise UserError(where, f"its last turn is of {turns[-1]['role']}", "end it with the assistant's turn", DATA)


def _check_texts(value: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if key not in value:
            raise UserError(where, f"missing {key!r}", FIX, DATA)
        if not isinstance(value[key], str):
            raise UserError(where, f"{key} is {value[key]!r:.40}, not a string", "write a string in quotes", DATA)
        if has_lone_surrogate(value[key]):
            raise UserError(where, f"{key} contains a lone surrogate", "write the character itself", DATA)
    if unknown := sorted(set(value) - set(keys)):
        raise UserError(where, f"unknown key {unknown[0]!r}", FIX, DATA)
