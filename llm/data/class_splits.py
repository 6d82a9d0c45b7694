"""The files of labelled splits in data/spam: one CSV file a split, as in the book, and the names of the classes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm.common.errors import DATA, UserError
from llm.common.files import read_bytes, read_json, write_csv, write_json

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["Label", "Text"]
SPLITS = ("train", "validation", "test")
LABELS = "labels.json"
AGAIN = "run `dvc repro tokenize@spam`"


def write_labels(labels: Sequence[str], folder: Path) -> None:
    """Write the names of the classes; the index is the class."""
    write_json(folder / LABELS, list(labels))


def read_labels(folder: Path) -> list[str]:
    """Read the names of the classes. Raises UserError unless they are two or more different strings."""
    path = folder / LABELS
    if folder.is_dir() and not path.is_file():
        raise UserError(str(path), "no such file", AGAIN, DATA)
    labels = read_json(path)
    if not is_labels(labels):
        raise UserError(str(path), f"{str(labels)[:60]} is not a list of two or more different names", AGAIN, DATA)
    return list(labels)


def is_labels(value: object) -> bool:
    """Whether the value is a list of two or more different strings."""
    return isinstance(value, list) and all(type(one) is str for one in value) and len(set(value)) == len(value) > 1


def write_split(frame: pd.DataFrame, labels: Sequence[str], path: Path) -> None:
    """Write a split as CSV with the columns Label (the index in `labels`) and Text, as the book does."""
    classes = {label: number for number, label in enumerate(labels)}
    rows = [[classes[label], text] for label, text in zip(frame["Label"], frame["Text"], strict=True)]
    write_csv(path, COLUMNS, rows)


def read_split(path: Path, n_classes: int) -> tuple[list[int], list[str]]:
    """Read the classes and messages of a file by `write_split`. Raises UserError for any other file."""
    csv.field_size_limit(2**31 - 1)  # a message may be longer than csv's 131,072 characters
    numbers = {str(number): number for number in range(n_classes)}
    try:
        header, *rows = csv.reader(io.StringIO(read_bytes(path).decode("utf-8"), newline=""), strict=True)
        classes, texts = [numbers[label] for label, _ in rows], [text for _, text in rows]
    except (csv.Error, ValueError, KeyError) as error:
        what = f"not a split file: {type(error).__name__}: {error}"
        raise UserError(str(path), what, AGAIN, DATA) from None
    if header != COLUMNS or not rows:
        raise UserError(str(path), f"{len(rows)} messages with the header {header}", AGAIN, DATA)
    return classes, texts
