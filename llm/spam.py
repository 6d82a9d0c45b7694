"""Labelled messages: read the UCI file, balance and split it (section 6.2), pad it into batches (section 6.3)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
import torch

from llm.batches import Batch
from llm.errors import DATA, UserError
from llm.files import read_bytes, read_text, write_csv
from llm.params import Problem, fraction
from llm.tokenizer import Tokenizer

LABELS = ["ham", "spam"]  # a message's class is its label's place here
SPLITS = ("train", "validation", "test")
Padding = Literal["longest", "context", "batch"]


@dataclass(frozen=True)
class SpamConfig:
    """How the file is read and cut."""

    reading: Literal["strict", "book"]  # strict: a line is a message; book: pandas' quoting, which merges some
    order: Literal["shuffled", "file"]  # file: each class is cut in the order of the file, then balanced
    train_fraction: float
    validation_fraction: float  # the rest is the test split

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from fraction(self, "train_fraction", "validation_fraction", zero=False)
        if self.train_fraction + self.validation_fraction >= 1:
            total = self.train_fraction + self.validation_fraction
            yield "validation_fraction", f"with train_fraction it makes {total:g}", "leave something for the test"


def read_messages(path: Path, reading: Literal["strict", "book"]) -> pd.DataFrame:
    """The messages of a file of `label<TAB>text` lines, as columns Label and Text.

    `strict` takes every line as it stands. `book` reads as the book does, with pandas' default quoting: on the
    UCI file that joins three lines into one and strips the quotes of some others. Raises UserError with file and
    line for a wrong number of tabs, an unknown label, an empty message; and where a class is missing.
    """
    if reading == "book":
        table = io.StringIO(read_text(path))
        frame = pd.read_csv(table, sep="\t", header=None, names=["Label", "Text"], keep_default_na=False)
        for line, label in enumerate(frame["Label"], start=1):
            _check_label(str(label), f"{path}: row {line}")
    else:
        lines = read_text(path).removesuffix("\n").split("\n")
        frame = pd.DataFrame(
            [_message(line, f"{path}:{number}") for number, line in enumerate(lines, start=1)],
            columns=["Label", "Text"],
        )
    for label in LABELS:
        if not (frame["Label"] == label).any():
            raise UserError(str(path), f"no message is labelled {label!r}", f"add some {label} messages")
    return frame


def balanced_splits(frame: pd.DataFrame, config: SpamConfig, seed: int) -> dict[str, pd.DataFrame]:
    """As many ham as spam messages, shuffled and cut into train, validation and test (section 6.2).

    `shuffled` gives the book's rows for seed 123. `file` cuts each class in the order of the file first, so that
    whoever orders the file decides what is held out. Raises UserError where a part would be empty.
    """
    if config.order == "shuffled":
        spam, ham = frame[frame["Label"] == "spam"], frame[frame["Label"] == "ham"]
        _check_enough_ham(ham, spam)
        balanced = pd.concat([ham.sample(len(spam), random_state=seed), spam]).sample(frac=1, random_state=seed)
        parts = dict(zip(SPLITS, _cut(balanced, config), strict=True))
    else:
        ham_parts, spam_parts = (_cut(frame[frame["Label"] == label], config) for label in LABELS)
        parts = {}
        for split, ham, spam in zip(SPLITS, ham_parts, spam_parts, strict=True):
            _check_enough_ham(ham, spam)
            both = pd.concat([ham.sample(len(spam), random_state=seed), spam])
            parts[split] = both.sample(frac=1, random_state=seed)
    for split, part in parts.items():
        if not set(LABELS) <= set(part["Label"]):
            what = f"{len(part)} messages, not all of them classes {' and '.join(LABELS)}"
            raise UserError(f"the {split} split", what, "bring more messages, or change tokenize.spam.*_fraction")
    return parts


def write_split(frame: pd.DataFrame, path: Path) -> None:
    """Write a split as CSV with the columns Label (0 ham, 1 spam) and Text, as the book does."""
    rows = [[LABELS.index(label), text] for label, text in zip(frame["Label"], frame["Text"], strict=True)]
    write_csv(path, ["Label", "Text"], rows)


def read_split(path: Path) -> tuple[list[int], list[str]]:
    """Classes and messages of a split that `write_split` wrote."""
    rows = list(csv.reader(io.StringIO(read_bytes(path).decode("utf-8"))))
    return [int(label) for label, _ in rows[1:]], [text for _, text in rows[1:]]


class SpamDataset:
    """Messages as token ids, padded on the right with <|endoftext|> when batched.

    Every row is `width` tokens wide (longer messages are cut), or as wide as the longest of its batch where that
    is None.
    """

    def __init__(self, labels: Sequence[int], texts: Sequence[str], tokenizer: Tokenizer, limit: int) -> None:
        self.labels, self.pad = list(labels), tokenizer.eot
        self.ids = [ids[:limit] for ids in tokenizer.encode_all(texts)]
        self.width: int | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest message."""
        return max(len(ids) for ids in self.ids)

    def __len__(self) -> int:
        """How many messages there are."""
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The messages of these numbers: ids (B, T), classes (B,), lengths (B,)."""
        return pad_right([self.ids[i] for i in indices], self.pad, self.width, [self.labels[i] for i in indices])


def pad_right(rows: Sequence[Sequence[int]], pad: int, width: int | None, labels: Sequence[int]) -> Batch:
    """Rows of ids as a batch of `width` (None: the longest row) columns."""
    width = width or max(len(row) for row in rows)
    cut = [list(row[:width]) for row in rows]
    padded = [row + [pad] * (width - len(row)) for row in cut]
    return Batch(torch.tensor(padded), torch.tensor(labels), torch.tensor([max(1, len(row)) for row in cut]))


def _message(line: str, where: str) -> tuple[str, str]:
    parts = line.split("\t")
    if len(parts) != 2:
        what = f"{len(parts) - 1} tabs where one belongs: {line[:40]!r}"
        raise UserError(where, what, "write label, one tab, message")
    _check_label(parts[0], where)
    if not parts[1].strip():
        raise UserError(where, "the message is empty", "write a message, or remove the line")
    return parts[0], parts[1]


def _check_label(label: str, where: str) -> None:
    if label not in LABELS:
        raise UserError(where, f"label {label[:40]!r} is not one of {', '.join(LABELS)}", "correct the label", DATA)


def _check_enough_ham(ham: pd.DataFrame, spam: pd.DataFrame) -> None:
    if len(ham) < len(spam):
        what = f"{len(ham)} ham messages cannot balance {len(spam)} spam messages"
        raise UserError("data/raw/spam", what, "bring more ham messages", DATA)


def _cut(frame: pd.DataFrame, config: SpamConfig) -> list[pd.DataFrame]:
    train = int(len(frame) * config.train_fraction)
    validation = train + int(len(frame) * config.validation_fraction)
    return [frame.iloc[:train], frame.iloc[train:validation], frame.iloc[validation:]]
