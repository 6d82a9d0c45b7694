"""Instructions: read and split them, format them as prompts (section 7.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm.common.errors import DATA, UserError, noted, raise_first
from llm.common.files import read_json
from llm.common.params import Problem, fraction

KEYS = ("instruction", "input", "output")
SPLITS = ("train", "test", "validation")  # the order in which the book cuts the file
Entry = dict[str, str]


@dataclass(frozen=True)
class InstructionsConfig:
    """How the file is cut, in its own order."""

    train_fraction: float
    test_fraction: float  # the rest is the validation split
    empty: Literal["refuse", "skip"]  # entries without an instruction or an output: an error, or left out and counted

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from fraction(self, "train_fraction", "test_fraction", zero=False)
        if self.train_fraction + self.test_fraction >= 1:
            total = self.train_fraction + self.test_fraction
            yield "test_fraction", f"with train_fraction it makes {total:g}", "leave something for the validation"


def read_entries(path: Path, skip_empty: bool = False) -> list[Entry]:
    """Entries of a JSON list of objects with texts under `instruction`, `input`, `output`.

    Raises UserError, several at once, naming the entry, counted from 1: not a list, a missing or foreign key, a value
    that is no text, and an empty instruction or output unless `skip_empty` leaves such entries out.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        what = "is an empty list" if entries == [] else f"holds {type(entries).__name__}, not a list of entries"
        raise UserError(str(path), what, "write [{...}, ...]", DATA)
    kept: list[Entry] = []
    problems: list[UserError] = []
    for number, entry in enumerate(entries, start=1):
        where = f"{path}: entry {number}"
        with noted(problems):
            _check_entry(entry, where)
            empty = [key for key in ("instruction", "output") if not entry[key].strip()]
            if empty and not skip_empty:
                fix = "write it, remove the entry, or set tokenize.instructions.empty to skip"
                raise UserError(where, f"{empty[0]} is empty", fix, DATA)
            if not empty:
                kept.append(entry)
    raise_first(problems, str(path))
    if not kept:
        raise UserError(str(path), f"all {len(entries)} entries are empty", "bring some that are not", DATA)
    return kept


def split_entries(entries: Sequence[Entry], config: InstructionsConfig) -> dict[str, list[Entry]]:
    """Train, test and validation parts, in file order (section 7.2); raises UserError where one is empty."""
    train = int(len(entries) * config.train_fraction)
    test = train + int(len(entries) * config.test_fraction)
    parts = {"train": list(entries[:train]), "test": list(entries[train:test]), "validation": list(entries[test:])}
    for split, part in parts.items():
        if not part:
            what = f"no entry is left for it of {len(entries)}"
            raise UserError(f"the {split} split", what, "bring more entries, or change tokenize.instructions")
    return parts


def _check_entry(entry: Any, where: str) -> None:
    fix = f"give each entry the keys {', '.join(KEYS)}"
    if not isinstance(entry, Mapping):
        raise UserError(where, f"is {entry!r:.40}, not an object", fix, DATA)
    for key in KEYS:
        if key not in entry:
            raise UserError(where, f"missing {key!r}", fix, DATA)
        if not isinstance(entry[key], str):
            raise UserError(where, f"{key} is {entry[key]!r:.40}, not a text", "write a text in quotes", DATA)
        if any("\ud800" <= letter <= "\udfff" for letter in entry[key]):
            raise UserError(where, f"{key} holds a lone surrogate", "write the character itself", DATA)
    foreign = sorted(set(entry) - set(KEYS))
    if foreign:
        raise UserError(where, f"unknown key {foreign[0]!r}", fix, DATA)
