"""Labelled messages of any classes: read a file, balance it and split it (section 6.2)."""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llm.common.errors import DATA, UserError, raise_first
from llm.common.params import Problem, fraction
from llm.data.class_splits import COLUMNS, SPLITS
from llm.data.columns import choose_columns, other_columns
from llm.data.decoding import has_lone_surrogate
from llm.data.table import Format, Reading, read_table

if TYPE_CHECKING:
    import pandas as pd  # takes half a second; `check` and `llm plan` only need the section

Order = Literal["shuffled", "stratified", "file"]
DIGITS = 18  # of a label that is sorted as a number; longer ones are names
NAMED = 10  # contradictions that the report names


@dataclass(frozen=True)
class SpamConfig:
    """Section `tokenize.spam` of params.yaml. A value of None, and `format: guess`, is guessed from the file."""

    format: Format
    reading: Reading  # of TSV; strict: one message a line; book: with pandas' quoting
    delimiter: str | None  # of CSV
    header: bool | None  # of TSV and CSV: whether the first row holds column names
    text_column: str | None  # its name, or its number from 1
    label_column: str | None
    encoding: str | None
    labels: dict[str, str] | None  # label in the file -> name of the class; None: the labels are the names
    balance: Literal["none", "undersample"]  # undersample: as many messages of each class as of the smallest
    order: Order  # file: cut each class in file order; stratified: cut each class after a shuffle; shuffled: cut all
    train_fraction: float
    validation_fraction: float  # the rest is the test split

    def problems(self) -> Iterator[Problem]:
        yield from fraction(self, "train_fraction", "validation_fraction", zero=False)
        if (total := self.train_fraction + self.validation_fraction) >= 1:
            yield "validation_fraction", f"its sum with train_fraction is {total:g}", "lower one for the test split"
        if self.encoding is not None and not _is_text_encoding(self.encoding):
            yield "encoding", f"{self.encoding!r} is unknown", "name one such as utf-8, utf-16 or cp1252"
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            yield "delimiter", f"{self.delimiter!r} is not one character between fields", 'write one, such as ";"'
        if self.text_column is not None and self.text_column == self.label_column:
            yield "label_column", f"{self.label_column!r} is also text_column", "name another column"
        if self.labels is not None and (classes := len(set(self.labels.values()))) < 2:
            yield "labels", f"names {classes} classes, not two or more", "name more, or write null"


@dataclass(frozen=True)
class Messages:
    """A frame with the columns Label and Text, the classes in their order, and how the file was read."""

    frame: pd.DataFrame
    labels: list[str]
    read_as: dict[str, Any]


def read_messages(path: Path, config: SpamConfig) -> Messages:
    """Read a file of labelled texts.

    The classes are in the order of `config.labels`, else sorted: numbers by value, then names. Raises UserError that
    lists every row without a text or a label and every label that is not declared, and if there are not two classes.
    """
    import pandas as pd

    table = read_table(path, config.format, config.reading, config.delimiter, config.encoding)
    declared = {} if config.labels is None else {name: name for name in config.labels.values()} | config.labels
    columns = choose_columns(table, path, config.text_column, config.label_column, config.header, declared)
    rows = table.rows[1:] if columns.header else table.rows
    pairs, problems = [], []
    for row in rows:
        label, text = _label(row.cells[columns.label]), row.cells[columns.text]
        wrong = _problem(row.cells[columns.label], label, text, config.labels and declared)
        if columns.header and row.cells == table.rows[0].cells:  # of files that were joined
            wrong = "repeats the header, the first row", "remove the row"
        if wrong:
            problems.append(UserError(row.where, *wrong, DATA))
        else:
            pairs.append((declared.get(label, label), text))
    raise_first(problems, str(path))
    frame = pd.DataFrame(pairs, columns=COLUMNS)
    read_as = table.read_as | ({} if table.names is not None else {"header": columns.header})
    read_as |= {"label_column": columns.names[columns.label], "text_column": columns.names[columns.text]}
    read_as |= {"columns_guessed": columns.guessed, "empty_rows": table.empty}
    read_as["other_columns"] = other_columns(columns, rows)
    return Messages(frame, _classes(frame, config.labels, path), read_as)


def contradictions(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The texts that occur under more than one label, with the number of messages under each."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for label, text in zip(frame["Label"], frame["Text"], strict=True):
        found[text][label] += 1
    return [{"text": text, "labels": dict(count)} for text, count in found.items() if len(count) > 1]


def balanced_splits(messages: Messages, config: SpamConfig, seed: int) -> dict[str, pd.DataFrame]:
    """Balance the classes, shuffle, and cut into train, validation and test split (section 6.2).

    With `order: shuffled`, `balance: undersample` and seed 123, the rows are those of the book. With the other orders
    each class is cut by itself, and the classes of each split are balanced. Raises UserError if a split lacks a class,
    or a class has less than three messages.
    """
    classes = [messages.frame[messages.frame["Label"] == label] for label in messages.labels]
    rare = [
        UserError("data/raw/spam", *_few(label, part, messages.read_as.get("header") is False), DATA)
        for label, part in zip(messages.labels, classes, strict=True)
        if len(part) < len(SPLITS)
    ]
    raise_first(rare, "data/raw/spam")
    undersample = config.balance == "undersample"
    if config.order == "shuffled":
        parts = _cut(_joined(classes, undersample, seed), config)
        for split, part in zip(SPLITS, parts, strict=True):
            missing = [repr(label) for label in messages.labels if not (part["Label"] == label).any()]
            if missing:
                what = f"{len(part)} messages, but none labelled {' or '.join(missing)}"
                fix = "add messages, or set tokenize.spam.order: stratified"
                raise UserError(f"the {split} split", what, fix, DATA)
        return dict(zip(SPLITS, parts, strict=True))
    if config.order == "stratified":
        classes = [part.sample(frac=1, random_state=seed) for part in classes]
    cuts = zip(*(_cut(part, config, each=True) for part in classes), strict=True)
    return {split: _joined(pieces, undersample, seed) for split, pieces in zip(SPLITS, cuts, strict=True)}


def _is_text_encoding(name: str) -> bool:
    try:
        return bool(codecs.lookup(name)._is_text_encoding)
    except LookupError:
        return False


def _label(cell: Any) -> str:
    """A label as text: 1 and 1.0 are "1", True is "true"."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else str(cell).strip()


def _problem(cell: Any, label: str, text: Any, declared: Mapping[str, str] | None) -> tuple[str, str] | None:
    """What is wrong with a row, and the fix; None if nothing is."""
    if hasattr(cell, "__len__") and not isinstance(cell, str | bytes):  # also an array, of Parquet
        return f"the label {str(cell)[:40]!r} is not one value", "write a string or a number"
    if not label:
        return "the label is empty", "write a label, or remove the row"
    if declared is not None and label not in declared:
        return f"label {label[:40]!r} is not in tokenize.spam.labels", "correct the label, or declare it"
    if text is None or (isinstance(text, str) and not text.strip()):
        return "the message is empty", "write a message, or remove the row"
    if not isinstance(text, str):
        return f"the text {str(text)[:40]!r} is {type(text).__name__}, not a string", "write a string"
    damaged = [name for name, value in (("label", label), ("message", text)) if has_lone_surrogate(value)]
    return (f"the {damaged[0]} contains a lone surrogate", "write the character itself") if damaged else None


def _classes(frame: pd.DataFrame, declared: Mapping[str, str] | None, path: Path) -> list[str]:
    """The names of the classes, in their order. Raises UserError for one class, and for names that look alike."""
    count = Counter(frame["Label"])
    if declared is not None:
        names = list(dict.fromkeys(declared.values()))
        absent = [name for name in names if name not in count]
        if absent:
            what = f"no message is labelled {' or '.join(map(repr, absent))}"
            raise UserError(str(path), what, "add messages, or change tokenize.spam.labels", DATA)
        return names
    names = sorted(count, key=lambda name: (0, int(name), name) if _is_number(name) else (1, 0, name))
    if len(names) < 2:
        what = f"all {len(frame)} messages are labelled {names[0]!r}"
        raise UserError(str(path), what, "add messages of another class", DATA)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_as_seen(name)].append(name)
    raise_first([_look_alike(same, path) for same in alike.values() if len(same) > 1], str(path))
    return names


def _as_seen(label: str) -> str:
    """A label without what the eye does not see: composed letters, invisible characters, kinds of spaces, case."""
    seen = "".join(character for character in label if unicodedata.category(character) != "Cf")
    return " ".join(unicodedata.normalize("NFC", seen).casefold().split())


def _look_alike(names: Sequence[str], path: Path) -> UserError:
    in_case = len({name.casefold() for name in names}) == 1
    shown = " and ".join(map(repr if in_case else ascii, names))
    what = f"the labels {shown} differ in {'case' if in_case else 'case, spaces or invisible characters'} only"
    fix = f"map all labels in tokenize.spam.labels, such as {{{names[0]}: {names[-1]}, ...}}"
    return UserError(str(path), what, fix if in_case else "write them in the same way", DATA)


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal() and name.isascii() and len(name) <= DIGITS


def _few(label: str, part: pd.DataFrame, headless: bool) -> tuple[str, str]:
    what = f"label {label[:40]!r} has {len(part)} messages, not one for each split"
    if headless and part.index[0] == 0 and len(part) == 1:
        return f"{what}; it is in the first row", "set tokenize.spam.header: true if that row holds column names"
    text = str(part["Text"].iloc[0])[:40]
    return f"{what}; the first is {text!r}", "add messages, or map the label in tokenize.spam.labels"


def _joined(classes: Sequence[pd.DataFrame], undersample: bool, seed: int) -> pd.DataFrame:
    """All classes, shuffled; with `undersample`, as many messages of each as of the smallest."""
    import pandas as pd

    size = min(map(len, classes))
    kept = [part.sample(size, random_state=seed) if undersample and len(part) > size else part for part in classes]
    return pd.concat(kept).sample(frac=1, random_state=seed)


def _cut(frame: pd.DataFrame, config: SpamConfig, each: bool = False) -> list[pd.DataFrame]:
    """Cut in order by the fractions, rounded down; with `each`, no split stays empty (of three messages or more)."""
    train, validation = int(len(frame) * config.train_fraction), int(len(frame) * config.validation_fraction)
    if each:
        train = min(max(1, train), len(frame) - 2)
        validation = min(max(1, validation), len(frame) - train - 1)
    return [frame.iloc[:train], frame.iloc[train : train + validation], frame.iloc[train + validation :]]
