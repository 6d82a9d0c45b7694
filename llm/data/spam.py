"""Labelled messages: read the UCI file, balance and split it (section 6.2)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from llm.common.errors import DATA, UserError, collect_errors, raise_first
from llm.common.files import read_bytes, read_text, write_csv
from llm.common.params import Problem, fraction

LABELS = ["ham", "spam"]  # the index is the class
COLUMNS = ["Label", "Text"]
CLASSES = {str(number): number for number in range(len(LABELS))}  # as written in the CSV files of the splits
SPLITS = ("train", "validation", "test")
AGAIN = "run `dvc repro tokenize@spam`"


@dataclass(frozen=True)
class SpamConfig:
    """Section `tokenize.spam` of params.yaml."""

    reading: Literal["strict", "book"]  # strict: one message a line; book: with pandas' quoting
    order: Literal["shuffled", "file"]  # file: cut each class in file order, then balance
    train_fraction: float
    validation_fraction: float  # the rest is the test split

    def problems(self) -> Iterator[Problem]:
        yield from fraction(self, "train_fraction", "validation_fraction", zero=False)
        if (total := self.train_fraction + self.validation_fraction) >= 1:
            yield "validation_fraction", f"its sum with train_fraction is {total:g}", "lower one for the test split"


def read_messages(path: Path, reading: Literal["strict", "book"]) -> pd.DataFrame:
    """Read a file of `label<TAB>text` lines into the columns Label and Text.

    `strict` reads each line as one message. `book` uses pandas' default quoting, as the book does; on the UCI file this
    joins three lines and removes some quotes. Raises UserError with the number of each line that has a wrong number of
    tabs, an unknown label or an empty message, and if a class is missing.
    """
    text = read_text(path)
    lines = text.removesuffix("\n").split("\n")
    messages: list[tuple[str, str]] = []
    problems: list[UserError] = []
    for number, line in enumerate(lines, start=1):
        with collect_errors(problems):
            messages.append(_message(line, f"{path}:{number}"))
    raise_first(problems, str(path))
    frame = pd.DataFrame(messages, columns=COLUMNS) if reading == "strict" else _read_quoted(text, path)
    for label in LABELS:
        if not (frame["Label"] == label).any():
            raise UserError(str(path), f"no message is labelled {label!r}", f"add {label} messages")
    return frame


def balanced_splits(frame: pd.DataFrame, config: SpamConfig, seed: int) -> dict[str, pd.DataFrame]:
    """Balance the classes, shuffle, and cut into train, validation and test split (section 6.2).

    With `order: shuffled` and seed 123, the rows are those of the book. With `order: file`, each class is first cut in
    the order of the file, which so decides what is held out. Raises UserError if a split lacks a class.
    """
    if config.order == "shuffled":
        ham, spam = (frame[frame["Label"] == label] for label in LABELS)
        parts = dict(zip(SPLITS, _cut(_balanced(ham, spam, seed), config), strict=True))
    else:
        ham_parts, spam_parts = (_cut(frame[frame["Label"] == label], config) for label in LABELS)
        parts = {
            split: _balanced(ham, spam, seed) for split, ham, spam in zip(SPLITS, ham_parts, spam_parts, strict=True)
        }
    for split, part in parts.items():
        if not set(LABELS) <= set(part["Label"]):
            what = f"{len(part)} messages, but not both of {' and '.join(LABELS)}"
            raise UserError(f"the {split} split", what, "add messages, or change tokenize.spam.*_fraction")
    return parts


def write_split(frame: pd.DataFrame, path: Path) -> None:
    """Write a split as CSV with the columns Label (0: ham, 1: spam) and Text, as the book does."""
    rows = [[LABELS.index(label), text] for label, text in zip(frame["Label"], frame["Text"], strict=True)]
    write_csv(path, COLUMNS, rows)


def read_split(path: Path) -> tuple[list[int], list[str]]:
    """Read the classes and messages of a file by `write_split`. Raises UserError for any other file."""
    csv.field_size_limit(2**31 - 1)  # a message may be longer than csv's 131,072 characters
    try:
        header, *rows = csv.reader(io.StringIO(read_bytes(path).decode("utf-8"), newline=""), strict=True)
        classes, texts = [CLASSES[label] for label, _ in rows], [text for _, text in rows]
    except (csv.Error, ValueError, KeyError) as error:
        what = f"not a split file: {type(error).__name__}: {error}"
        raise UserError(str(path), what, AGAIN, DATA) from None
    if header != COLUMNS or not rows:
        raise UserError(str(path), f"{len(rows)} messages with the header {header}", AGAIN, DATA)
    return classes, texts


def _read_quoted(text: str, path: Path) -> pd.DataFrame:
    """Read `text` with the default quoting of `pandas.read_csv`, but all fields as strings, also NA and 12."""
    try:
        frame = pd.read_csv(io.StringIO(text), sep="\t", header=None, names=COLUMNS, dtype=str, na_filter=False)
    except pd.errors.ParserError as error:
        what = f"pandas cannot read it with quoting: {' '.join(str(error).split())}"
        raise UserError(str(path), what, "close the quote, or set tokenize.spam.reading: strict", DATA) from None
    problems: list[UserError] = []
    for row, (label, message) in enumerate(zip(frame["Label"], frame["Text"], strict=True), start=1):
        where = f"{path}: row {row} as pandas reads it"
        with collect_errors(problems):
            _check(label, message, where)
    raise_first(problems, str(path))
    return frame


def _message(line: str, where: str) -> tuple[str, str]:
    parts = line.split("\t")
    if len(parts) != 2:
        what = f"{len(parts) - 1} tabs instead of one: {line[:40]!r}"
        raise UserError(where, what, "write label, one tab, message")
    label, message = parts
    _check(label, message, where)
    return label, message


def _check(label: str, message: str, where: str) -> None:
    if label not in LABELS:
        raise UserError(where, f"label {label[:40]!r} is not one of {', '.join(LABELS)}", "correct the label", DATA)
    if not message.strip():
        raise UserError(where, "the message is empty", "write a message, or remove the line", DATA)


def _balanced(ham: pd.DataFrame, spam: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return all spam messages and as many ham messages, shuffled."""
    if len(ham) < len(spam):
        what = f"{len(ham)} ham messages are fewer than {len(spam)} spam messages"
        raise UserError("data/raw/spam", what, "add ham messages", DATA)
    return pd.concat([ham.sample(len(spam), random_state=seed), spam]).sample(frac=1, random_state=seed)


def _cut(frame: pd.DataFrame, config: SpamConfig) -> list[pd.DataFrame]:
    train = int(len(frame) * config.train_fraction)
    validation = train + int(len(frame) * config.validation_fraction)
    return [frame.iloc[:train], frame.iloc[train:validation], frame.iloc[validation:]]
