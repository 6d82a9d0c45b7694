"""Which column of a table is the text and which is the label: as declared, by name, or by content."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.common.errors import DATA, UserError
from llm.data.delimited import SECTION
from llm.data.table import Row, Table

# Usual names, the surest first. `v1` and `v2` are those of the SMS collection on Kaggle.
TEXT_NAMES = (
    "text message sms v2 sentence content body review comment tweet utterance email mail document post question query "
    "input description title"
).split()
LABEL_NAMES = (
    "label labels class category target sentiment v1 intent emotion stance topic tag type rating polarity is_spam "
    "isspam spam y"
).split()
ABOUT = set("id ids count num number length len date time url index score confidence".split())  # not the thing itself
SAMPLE = 2000  # rows that are looked at
SHORT = 3  # words of a column name, at most
ALIKE = 1.5  # columns whose mean numbers of words differ by less than this factor may both be the text


@dataclass(frozen=True)
class Columns:
    """The chosen columns, their names (or numbers, from 1), and whether the first row holds the names."""

    text: int
    label: int
    names: list[str]
    header: bool
    guessed: bool


def choose_columns(
    table: Table, path: Path, text: str | None, label: str | None, header: bool | None, known: Container[str]
) -> Columns:
    """Find the text and the label column. `text` and `label` are declared names or numbers; None: guess.

    `header` says if the first row of a TSV or CSV file holds the names; None: guess. `known` are declared labels: a
    first row with one of them is no header. Raises UserError if a declared column is missing or a guess is not clear.
    """
    rows = [row.cells for row in table.rows[: SAMPLE + 1]]
    if table.names is not None:
        has_header, names, sample = False, table.names, rows[:SAMPLE]
    else:
        has_header = _is_header(rows, text, label, known) if header is None else header
        first = ["" if cell is None else str(cell).strip() for cell in rows[0]] if has_header else []
        names = [(first[i] if has_header else "") or f"column {i + 1}" for i in range(len(rows[0]))]
        sample = rows[1:] if has_header else rows[:SAMPLE]
    if not sample:
        raise UserError(str(path), "holds a header, but no row below it", "add rows", DATA)
    filled = [i for i in range(len(names)) if any(_filled(row[i]) for row in sample)]
    if len(filled) < 2:
        what = f"has {len(filled)} columns with content ({', '.join(names[i] for i in filled)})"
        raise UserError(str(path), what, f"give it a text and a label column, or declare {SECTION}.format", DATA)
    chosen = {key: _declared(names, name, key, path) for key, name in (("text", text), ("label", label)) if name}
    if has_header or table.names is not None:
        for key, usual in (("label", LABEL_NAMES), ("text", TEXT_NAMES)):
            if key in chosen:
                continue
            free = [i for i in filled if i not in chosen.values()]
            found = _by_name([names[i] for i in free], usual, [[row[i] for i in free] for row in sample])
            if found is not None:
                chosen[key] = free[found]
    if len(chosen) < 2:
        _by_content(chosen, filled, sample, names, path)
    if chosen["text"] == chosen["label"]:
        what = f"column {names[chosen['text']]!r} is both text and label"
        raise UserError(f"params.yaml: {SECTION}.text_column", what, "name another column", DATA)
    return Columns(chosen["text"], chosen["label"], names, has_header, not (text and label))


def _filled(cell: Any) -> bool:
    return cell is not None and str(cell).strip() != ""


def _declared(names: Sequence[str], name: str, key: str, path: Path) -> int:
    """The index of a declared column: its exact name, its name in another case, or its number."""
    for matches in (
        [i for i, one in enumerate(names) if one == name],
        [i for i, one in enumerate(names) if one.strip().casefold() == name.strip().casefold()],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            what = f"{name!r} is the name of {len(matches)} columns of {path}"
            raise UserError(f"params.yaml: {SECTION}.{key}_column", what, "give them different names", DATA)
    if name.isdecimal() and 1 <= int(name) <= len(names):
        return int(name) - 1
    what = f"{name!r} is not a column of {path}"
    raise UserError(f"params.yaml: {SECTION}.{key}_column", what, f"name one of {', '.join(names)}", DATA)


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold())


def _part_of_name(names: Sequence[str], usual: Sequence[str]) -> list[int]:
    """The columns with a usual name among the words of their own, as `review_text`, but not as `review_id`, if any."""
    words = [set(_words(name)) for name in names]
    found = [i for i in range(len(names)) if words[i] & set(usual)]
    return [i for i in found if not words[i] & ABOUT] or found


def _by_name(names: Sequence[str], usual: Sequence[str], rows: Sequence[list[Any]]) -> int | None:
    """The column that its name says is the text or the label; None if none is, or several may be.

    A part of a name is enough for a text, of which the one with most words is taken, and for the only label. Of more,
    and of one such as `topic_id`, a label has few values. A name such as `is_toxic` counts as a part of one.
    """
    whole = ["_".join(_words(name)) for name in names]
    if surest := next((name for name in usual if name in whole), None):
        return whole.index(surest)
    found = _part_of_name(names, usual)
    if usual is TEXT_NAMES:
        found = [i for i in found if not set(_words(names[i])) & ABOUT]
        return _text_of(found, rows) if found else None
    found += [i for i, name in enumerate(names) if _words(name)[:1] == ["is"] and i not in found]
    if len(found) == 1 and not set(_words(names[found[0]])) & ABOUT:
        return found[0]
    few = [i for i in found if 2 <= _distinct(rows, i) <= max(2, len(rows) / 2)]
    return few[0] if len(few) == 1 else None


def _is_header(rows: Sequence[list[Any]], text: str | None, label: str | None, known: Container[str]) -> bool:
    """Whether the first row holds column names.

    It does if a column is declared by name. It also does if it is short, and the label in it is found nowhere else, and
    it has a usual name or all other labels are used more than once. A label that is found again, as in a column `spam`
    of `spam` and `ham`, is a name only next to one of TEXT_NAMES.
    """
    if any(name and not name.isdecimal() for name in (text, label)):
        return True  # a name that is not there is reported with the names that are
    first, rest = ["" if cell is None else str(cell).strip() for cell in rows[0]], rows[1:]
    folded = [name.casefold() for name in first]
    names = [name for name in folded if name]
    short = all(len(name.split()) <= SHORT for name in names)
    if not short or len(set(names)) < len(names) or any(name in known for name in first):
        return False
    by_text, by_label = (_part_of_name(first, usual) for usual in (TEXT_NAMES, LABEL_NAMES))
    if by_text and by_label:  # files with a header that were joined have it several times
        rest = [row for row in rest if row != rows[0]]
    filled = [i for i in range(len(first)) if any(_filled(row[i]) for row in rest)]
    if len(filled) < 2:
        return bool(by_text and by_label)
    text_at = _text_of(filled, rest)
    others = [i for i in filled if i != text_at]
    label_at = next((i for i in by_label if i in others), None)
    label_at = min(others, key=lambda i: _distinct(rest, i)) if label_at is None else label_at
    labels = Counter(str(row[label_at]).strip().casefold() for row in rest)
    if folded[label_at] in labels:
        texts = {str(row[text_at]).strip().casefold() for row in rest}
        named = folded[text_at] in TEXT_NAMES or (text_at in by_text and " " not in first[text_at])  # as `email_text`
        return folded[label_at] in LABEL_NAMES and named and folded[text_at] not in texts
    return bool(by_text or by_label) or (len(rest) > 2 and min(labels.values()) > 1)


def _distinct(rows: Sequence[list[Any]], i: int) -> int:
    return len({str(row[i]).strip() for row in rows if _filled(row[i])})


def _mean_words(rows: Sequence[list[Any]], i: int) -> float:
    counts = [len(str(row[i]).split()) for row in rows if _filled(row[i])]
    return sum(counts) / max(1, len(counts))


def _text_of(candidates: Sequence[int], rows: Sequence[list[Any]]) -> int:
    """The column with most words. Among columns with about as many, that with most different values; then the last."""
    words = {i: _mean_words(rows, i) for i in candidates}
    near = [i for i in candidates if words[i] * ALIKE > max(words.values())]
    return max(near, key=lambda i: (_distinct(rows, i), i))


def _by_content(
    chosen: dict[str, int], filled: Sequence[int], rows: Sequence[list[Any]], names: Sequence[str], path: Path
) -> None:
    """Add the missing columns to `chosen`. Raises UserError if several columns could be the label."""
    if "text" not in chosen:
        chosen["text"] = _text_of([i for i in filled if i not in chosen.values()] or list(filled), rows)
    if "label" in chosen:
        return
    others = [i for i in filled if i != chosen["text"]]
    if len(others) > 1:
        others = [i for i in others if 2 <= _distinct(rows, i) <= len(rows) / 2] or others
    if len(others) != 1:
        what = f"the label may be in one of {len(others)} columns: {', '.join(names[i] for i in others)}"
        raise UserError(str(path), what, f"declare {SECTION}.label_column", DATA)
    chosen["label"] = others[0]


def other_columns(columns: Columns, rows: Sequence[Row]) -> dict[str, int]:
    """The number of cells with content in each column that is neither text nor label."""
    others = set(range(len(columns.names))) - {columns.text, columns.label}
    counts = {columns.names[i]: sum(_filled(row.cells[i]) for row in rows) for i in sorted(others)}
    return {name: count for name, count in counts.items() if count}
