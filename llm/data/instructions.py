"""Read and split the file of instructions (section 7.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm.common.errors import DATA, UserError, collect_errors, raise_first
from llm.common.files import read_json
from llm.common.params import Problem, fraction

KEYS = ("instruction", "input", "output")
SPLITS = ("train", "test", "validation")  # in the order of the file, as in the book
Entry = dict[str, str]


@dataclass(frozen=True)
class InstructionsConfig:
    """Section `tokenize.instructions` of params.yaml."""

    train_fraction: float
    test_fraction: float  # the rest is the validation split
    empty: Literal["refuse", "skip"]  # entries with an empty instruction or output

    def problems(self) -> Iterator[Problem]:
        yield from fraction(self, "train_fraction", "test_fraction", zero=False)
        if (total := self.train_fraction + self.test_fraction) >= 1:
            yield "test_fraction", f"its sum with train_fraction is {total:g}", "lower one for the validation split"


def read_entries(path: Path, skip_empty: bool = False) -> list[Entry]:
    """Read a JSON list of objects with the strings `instruction`, `input` and `output`.

    With `skip_empty`, entries with an empty instruction or output are left out. Raises UserError with the number of
    each invalid entry, counted from 1.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        what = "is an empty list" if entries == [] else f"contains {type(entries).__name__}, not a list of entries"
        raise UserError(str(path), what, "write [{...}, ...]", DATA)
    kept: list[Entry] = []
    problems: list[UserError] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: entry {number}"
        with collect_errors(problems):
            _check_entry(entry, where)
            empty = [key for key in ("instruction", "output") if not entry[key].strip()]
            if empty and not skip_empty:
                fix = "write it, remove the entry, or set tokenize.instructions.empty to skip"
                raise UserError(where, f"{empty[0]} is empty", fix, DATA)
            if not empty:
                kept.append(entry)
    raise_first(problems, str(path))
    if not kept:
        raise UserError(str(path), f"all {len(entries)} entries are empty", "add entries with text", DATA)
    return kept


def split_entries(entries: Sequence[Entry], config: InstructionsConfig) -> dict[str, list[Entry]]:
    """Cut the entries into train, test and validation split, in order. Raises UserError if a split is empty."""
    train = int(len(entries) * config.train_fraction)
    test = train + int(len(entries) * config.test_fraction)
    parts = {"train": list(entries[:train]), "test": list(entries[train:test]), "validation": list(entries[test:])}
    for split, part in parts.items():
        if not part:
            what = f"empty, with {len(entries)} entries in all"
            raise UserError(f"the {split} split", what, "add entries, or change tokenize.instructions")
    return parts


def _check_entry(entry: Any, where: str) -> None:
    fix = f"give each entry the keys {', '.join(KEYS)}"
    if not isinstance(entry, Mapping):
        raise UserError(where, f"is {entry!r:.40}, not an object", fix, DATA)
    for key in KEYS:
        if key not in entry:
            raise UserError(where, f"missing {key!r}", fix, DATA)
        if not isinstance(entry[key], str):
            raise UserError(where, f"{key} is {entry[key]!r:.40}, not a string", "write a string in quotes", DATA)
        if any("\ud800" <= letter <= "\udfff" for letter in entry[key]):
            raise UserError(where, f"{key} contains a lone surrogate", "write the character itself", DATA)
    if unknown := sorted(set(entry) - set(KEYS)):
        raise UserError(where, f"unknown key {unknown[0]!r}", fix, DATA)
