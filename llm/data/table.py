"""Read a table of any common format: TSV, CSV, JSON, JSON Lines, Parquet. All problems of a file are reported at once.

Cells stay as they are in the file: text for TSV and CSV, any JSON value for JSON, and what pandas gives for Parquet.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm.common.errors import DATA, UserError, raise_first
from llm.common.files import parse_json, parse_json_lines, read_bytes
from llm.data.decoding import has_lone_surrogate, read_decoded
from llm.data.delimited import SECTION, parse_records, read_records

Format = Literal["guess", "tsv", "csv", "jsonl", "json", "parquet"]
Reading = Literal["strict", "book"]
DELIMITERS = (",", ";", "\t", "|")
SUFFIXES: dict[str, Format] = {".tsv": "tsv", ".tab": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
SUFFIXES |= {".parquet": "parquet", ".pq": "parquet"}
PARQUET = b"PAR1"


@dataclass(frozen=True)
class Row:
    """One row: where it is in the file, and its cells. A cell that the file does not have is None."""

    where: str
    cells: list[Any]


@dataclass(frozen=True)
class Table:
    """The rows of a file. `names` is None if the format has no column names of its own (the first row may hold them).

    `read_as` says how the file was read; `empty` is the number of rows without any text, which are left out.
    """

    names: list[str] | None
    rows: list[Row]
    read_as: dict[str, Any]
    empty: int = field(default=0)


def read_table(path: Path, form: Format, reading: Reading, delimiter: str | None, encoding: str | None) -> Table:
    """Read a file. What is not declared (`guess`, None) is guessed from the name and the content.

    `reading` is for TSV: `strict` takes each line as a row, `book` as pandas does by default, with quotes. Raises
    UserError that lists the damaged rows.
    """
    if form == "parquet" or (form == "guess" and read_bytes(path).startswith(PARQUET)):
        return _parquet(path)
    text, encoding = read_decoded(path, encoding, f"{SECTION}.encoding")
    guessed = form == "guess"
    form = _guess_format(text, path) if guessed else form
    if form == "tsv":
        table = _tsv(text, path, reading, guessed)
    elif form == "csv":
        if (named := text.split("\n", 1)[0]).startswith("sep=") and len(named) == 5:  # Excel's line about the delimiter
            delimiter, text = delimiter or named[4], text[5:]
        table = _csv(text, path, DELIMITERS if delimiter is None else (delimiter,))
    elif form == "jsonl":
        numbered = parse_json_lines(text, path)
        table = _entries([entry for _, entry in numbered], [f"{path}:{number}" for number, _ in numbered], path)
    else:
        entries = _unwrap(parse_json(text, path), path)
        table = _entries(entries, [f"{path}: entry {number}" for number in range(1, len(entries) + 1)], path)
    return Table(table.names, table.rows, {"format": form, "encoding": encoding} | table.read_as, table.empty)


def _guess_format(text: str, path: Path) -> Format:
    """The format of the name's ending, unless the text is JSON; without an ending, what most lines look like."""
    start = text.lstrip()[:1]
    if start in "[{":
        lines = [line for line in text.split("\n", 1000)[:1000] if line.strip()]
        for form, content in (("jsonl", lines[0]), ("json", text)):
            try:
                value = parse_json(content, path)
            except UserError:
                continue
            whole_table = form == "jsonl" and len(lines) == 1 and not _is_entry(value)
            if isinstance(value, list | dict) and not whole_table:
                return "json" if form == "json" else "jsonl"
        if path.suffix.lower() == ".json":
            return "json"
    known = SUFFIXES.get(path.suffix.lower())
    if known:
        return known
    lines = text.split("\n")
    tabs = sum("\t" in line for line in lines)
    commas = sum("," in line or ";" in line or "|" in line for line in lines)
    return "csv" if not tabs or (tabs < len(lines) / 2 and commas > tabs) else "tsv"


def _is_entry(value: Any) -> bool:
    """Whether the value of a file's only line is one row rather than a whole table."""
    return isinstance(value, dict) and not any(isinstance(cell, list | dict) for cell in value.values())


def _tsv(text: str, path: Path, reading: Reading, guessed: bool) -> Table:
    """Lines with tabs.

    If the format is `guessed`, some lines have a wrong number of tabs, and quoted fields explain it: read as quoted.
    """
    numbered = list(enumerate(text.rstrip("\n").split("\n"), start=1))
    lines = [(number, line) for number, line in numbered if line.strip()]
    empty = len(numbered) - len(lines)
    counts = Counter(len(line.rstrip("\t").split("\t")) for _, line in lines if "\t" in line)
    width = min((n for n in counts if counts[n] == max(counts.values())), default=2)
    width = max(width, 2)
    wanted = "one" if width == 2 else str(width - 1)
    rows, problems = [], []
    for number, line in lines:
        cells = line.split("\t")
        if reading == "strict" and not any(cells[width:]):
            cells = cells[:width]
        if len(cells) != width:
            what = f"{len(cells) - 1} tabs instead of {wanted}: {line[:40]!r}"
            problems.append(UserError(f"{path}:{number}", what, "write label, one tab, message", DATA))
        rows.append(Row(f"{path}:{number}", list(cells)))
    if problems and guessed and '"' in text:
        try:
            quoted = [record for record in parse_records(text, "\t", False) if record[1]]
        except csv.Error:
            quoted = []
        if quoted and len({len(cells) for _, cells in quoted}) == 1 and len(quoted[0][1]) > 1:
            return Table(None, [Row(f"{path}:{n}", cells) for n, cells in quoted], {"quotes": True})
    raise_first(problems, str(path))
    if reading == "book":
        return Table(None, list(_as_pandas_quotes(lines, path, width)), {"quotes": True}, empty)
    return Table(None, rows, {"quotes": False}, empty)


def _as_pandas_quotes(lines: Sequence[tuple[int, str]], path: Path, width: int) -> Iterator[Row]:
    """Rows by the default quoting of `pandas.read_csv`, but all fields as strings, also NA and 12."""
    import pandas as pd

    text = io.StringIO("\n".join(line for _, line in lines))
    try:
        frame = pd.read_csv(text, sep="\t", header=None, names=range(width), dtype=str, na_filter=False)
    except pd.errors.ParserError as error:
        what = f"pandas cannot read it with quoting: {' '.join(str(error).split())}"
        raise UserError(str(path), what, f"close the quote, or set {SECTION}.reading: strict", DATA) from None
    joined = len(frame) < len(lines)
    for row, cells in enumerate(frame.itertuples(index=False)):
        yield Row(f"{path}: row {row + 1} as pandas reads it" if joined else f"{path}:{lines[row][0]}", list(cells))


def _csv(text: str, path: Path, delimiters: Sequence[str]) -> Table:
    """Quoted records, as rows of the most frequent number of fields. Raises UserError for those with more."""
    records, empty, delimiter = read_records(text, path, delimiters)
    width = Counter(len(cells) for _, cells in records).most_common(1)[0][0]
    named = len(records[0][1])
    wider = sum(any(cell.strip() for cell in cells[named:]) for _, cells in records)
    if named < width and wider:
        first = delimiter.join(records[0][1])[:40]
        what = f"{named} fields, but {wider:,} of {len(records):,} rows have more: {first!r}"
        fix = f"quote the texts that have {delimiter!r} in them, or write all fields into this row"
        raise UserError(f"{path}:{records[0][0]}", what, fix, DATA)
    rows, problems = [], []
    for line, cells in records:
        if any(cell.strip() for cell in cells[width:]):
            what = f"{len(cells)} fields instead of {width}: {delimiter.join(cells)[:40]!r}"
            problems.append(UserError(f"{path}:{line}", what, f"quote the text that has {delimiter!r} in it", DATA))
        rows.append(Row(f"{path}:{line}", (cells + [None] * width)[:width]))
    raise_first(problems, str(path))
    return Table(None, rows, {"delimiter": delimiter}, empty)


def _unwrap(value: Any, path: Path) -> list[Any]:
    """The list of entries in a JSON value: itself, in a wrapper such as {"data": [...]}, or given by column."""
    if isinstance(value, list):
        return value
    if isinstance(value, Mapping):
        names, rows = value.get("columns"), value.get("data")
        if isinstance(names, list) and isinstance(rows, list) and all(isinstance(row, list) for row in rows):
            return _split(names, rows, path)
        if len(value) > 1 and all(isinstance(column, Mapping) and column for column in value.values()):
            return _by_key(value, path)
        columns = {name: column for name, column in value.items() if isinstance(column, list)}
        tables = [column for column in columns.values() if column and isinstance(column[0], list | Mapping)]
        if len(tables) == 1:
            return list(tables[0])
        if len(columns) == len(value) > 1 and len({len(column) for column in columns.values()}) == 1:
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    what = "holds neither a list of entries nor an object with one such list"
    raise UserError(str(path), what, 'write [{"text": ..., "label": ...}, ...]', DATA)


def _split(names: Sequence[Any], rows: Sequence[Sequence[Any]], path: Path) -> list[Any]:
    """The entries of names and rows, as pandas writes them with orient="split"."""
    problems = [
        UserError(f"{path}: row {number} of data", f"{len(row)} cells instead of {len(names)}", "correct it", DATA)
        for number, row in enumerate(rows, start=1)
        if len(row) != len(names)
    ]
    raise_first(problems, str(path))
    return [dict(zip(map(str, names), row, strict=True)) for row in rows]


def _by_key(value: Mapping[str, Mapping[str, Any]], path: Path) -> list[Any]:
    """The entries of an object of columns (pandas: orient="columns"), or of rows by number or id (orient="index")."""
    keys = list(next(iter(value.values())))
    numbered, rows_numbered = (all(key.isdecimal() for key in names) for names in (keys, value))
    if not numbered and (rows_numbered or len(value) > len(keys)):
        return list(value.values())
    if any(set(keys) != set(column) for column in value.values()):
        what = f"the columns {', '.join(map(repr, list(value)[:3]))} do not have the same keys"
        raise UserError(str(path), what, "give each column a value for each key", DATA)
    return [{name: column[key] for name, column in value.items()} for key in keys]


def _entries(entries: Sequence[Any], wheres: Sequence[str], path: Path) -> Table:
    """Objects, whose keys are the columns, or lists of cells."""
    if entries and all(isinstance(entry, list) for entry in entries):
        width = max(map(len, entries))
        rows = [Row(w, (entry + [None] * width)[:width]) for w, entry in zip(wheres, entries, strict=True)]
        return Table(None, rows, {})
    problems = [
        UserError(where, f"{str(entry)[:40]!r} is not an object", "write an object with a text and a label", DATA)
        for where, entry in zip(wheres, entries, strict=True)
        if not isinstance(entry, Mapping)
    ]
    raise_first(problems, str(path))
    if not entries:
        raise UserError(str(path), "the list of entries is empty", "add entries", DATA)
    names = list(dict.fromkeys(name for entry in entries for name in entry))
    if damaged := [name for name in names if has_lone_surrogate(name)]:
        what = f"the key {damaged[0]!r} contains a lone surrogate"
        raise UserError(str(path), what, "write the character itself", DATA)
    cells = ([entry.get(name) for name in names] for entry in entries)
    return Table(names, [Row(w, row) for w, row in zip(wheres, cells, strict=True)], {})


def _parquet(path: Path) -> Table:
    import pandas as pd
    from pyarrow import ArrowException

    try:
        frame = pd.read_parquet(path)
    except (ArrowException, OSError, ValueError, TypeError, OverflowError) as error:
        what = f"not readable Parquet: {' '.join(str(error).split())[:200]}"
        raise UserError(str(path), what, "write the file again", DATA) from None
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    if frame.empty:
        raise UserError(str(path), "the table is empty", "add rows", DATA)
    cells = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    rows = [Row(f"{path}: row {number}", row) for number, row in enumerate(cells, start=1)]
    return Table([str(name) for name in frame.columns], rows, {"format": "parquet"})
