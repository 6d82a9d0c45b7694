"""Quoted records of a CSV file, and the delimiter between their fields, which is guessed if it is not declared."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm.common.errors import DATA, UserError

SECTION = "tokenize.spam"  # of params.yaml, in the messages
Record = tuple[int, list[Any]]  # the first line, and the cells


class Delimited(NamedTuple):
    """The records of a file with a field that is not blank, and the number of the others."""

    records: list[Record]
    empty: int
    delimiter: str


class _Fit(NamedTuple):
    """How well a delimiter fits a file."""

    share: float  # of the records with the most frequent number of fields; 0 if that is one field
    values: int  # different ones in the column with the fewest
    records: int

    @property
    def rank(self) -> tuple[float, int]:
        """The higher, the better."""
        return self.share, -self.values

    @property
    def has_label(self) -> bool:
        """Whether a column may be the label."""
        return self.values <= self.records / 2


def read_records(text: str, path: Path, delimiters: Sequence[str]) -> Delimited:
    """Read with the delimiter that gives most records the same number of fields, two or more.

    If several do, it is the one with the column of fewest different values, which is likely the label. Raises UserError
    if that does not decide, or no delimiter gives fields.
    """
    best, chosen = Delimited([], 0, ""), _Fit(0.0, 0, 0)
    fits: dict[tuple[str, bool], _Fit] = {}  # by the delimiter, and whether a space after it is skipped
    errors: list[tuple[str, csv.Error]] = []
    spaced = [one for one in delimiters if f"{one} " in text or "\n " in f"\n{text}"]
    # `a, "b, c"` is quoted only if the space is skipped
    for delimiter, skip_spaces in [(one, False) for one in delimiters] + [(one, True) for one in spaced]:
        try:
            parsed = parse_records(text, delimiter, skip_spaces)
        except csv.Error as error:
            errors.append((delimiter, error))
            continue
        records = [(line, cells) for line, cells in parsed if any(cell.strip() for cell in cells)]
        if not records:  # separators alone
            continue
        width, often = Counter(len(cells) for _, cells in records).most_common(1)[0]
        fit = _Fit(often / len(records) if width > 1 else 0.0, _fewest_values(records), len(records))
        if all(fit.rank > other.rank for other in fits.values()):
            best, chosen = Delimited(records, len(parsed) - len(records), delimiter), fit
        fits[delimiter, skip_spaces] = fit
    if chosen.share == 0:
        raise _no_fields(text, path, delimiters, errors)
    # Another delimiter fits as well, and both give a column that may be the label.
    equal = [one for (one, _), fit in fits.items() if fit.share == chosen.share and fit.has_label]
    if chosen.has_label and (others := [one for one in equal if one != best.delimiter]):
        what = f"the delimiter may be {best.delimiter!r} or {others[0]!r}: both give all rows the same number of fields"
        raise UserError(str(path), what, f"declare {SECTION}.delimiter", DATA)
    return best


def parse_records(text: str, delimiter: str, skip_spaces: bool) -> list[Record]:
    """Parse the records. Raises csv.Error that names the line."""
    csv.field_size_limit(2**31 - 1)  # a message may be longer than csv's 131,072 characters
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=skip_spaces, strict=True)
    records, line = [], 1
    try:
        for cells in reader:
            records.append((line, list(cells)))
            line = reader.line_num + 1
    except csv.Error as error:
        raise csv.Error(f"line {line}: {error}") from None
    return records


def _fewest_values(records: Sequence[Record]) -> int:
    """The number of different values in the column with the fewest, but more than one."""
    columns = zip(*(cells for _, cells in records), strict=False)
    return min((number for number in (len(set(column)) for column in columns) if number > 1), default=len(records))


def _no_fields(text: str, path: Path, delimiters: Sequence[str], errors: Sequence[tuple[str, csv.Error]]) -> UserError:
    """The error for a text that no delimiter cuts into fields; `errors` are those of some of them."""
    first = text.split("\n", 1)[0]
    said = [str(error) for delimiter, error in errors if delimiter in first] or [str(error) for _, error in errors]
    what = said[0] if said else f"one field a line, no {' or '.join(map(repr, delimiters))} between fields"
    fix = f"declare {SECTION}.format and delimiter"
    fix = f"double each quote inside a quoted field, or {fix}" if said else f"write label and text, or {fix}"
    return UserError(str(path), f"not CSV: {what}", fix, DATA)
