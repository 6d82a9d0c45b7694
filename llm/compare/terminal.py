"""A comparison and the table of experiments in a terminal of at most 100 columns."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm.common.dvc_exp import DONE
from llm.common.errors import listed
from llm.compare import curves
from llm.compare.changes import MISSING, Change
from llm.compare.comparison import Comparison
from llm.compare.experiments import Experiment
from llm.compare.headlines import FIGURES, STALE, Line
from llm.compare.rows import Message, Pair

WIDTH = 100
LISTED = 8  # rows of a table; the page has more
MARK = "*"  # of a figure that is stale
OTHER = "~"  # of a loss over other tokens
CHANGED = 4  # parameters of an experiment in the table of experiments
STYLES = {"better": "green", "worse": "red", "neutral": ""}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave a reader that has gone, as in `... | head`, to `error_contract`; rich would exit with 1."""
        raise BrokenPipeError


def console() -> Console:
    """A console as wide as the terminal, but at most WIDTH columns."""
    columns = shutil.get_terminal_size((WIDTH, 24)).columns
    return _Console(file=sys.stdout, width=max(40, min(WIDTH, columns)), highlight=False, soft_wrap=False)


def show(compared: Comparison, to: Console) -> None:
    """Print a comparison."""
    to.print(Text(f"{compared.first.title}  →  {compared.second.title}", style="bold"))
    for note in compared.notes:
        to.print(Text(f"note: {note}", style="yellow"))
    if compared.equal:
        to.print("\nNothing differs: the same parameters, code, data and figures.")
        return
    for title, table in _sections(compared):
        to.print()
        to.print(Text(title, style="bold"))
        to.print(table)


def show_experiments(found: Sequence[Experiment], to: Console, elsewhere: int = 0) -> None:
    """Print the table of experiments: name, changed parameters, headline figures.

    `elsewhere` is the number of other commits with experiments.
    """
    rows: list[list[str | Text]] = []
    for one in found:
        name = Text(one.name, style="bold" if one.is_baseline else "")
        changed = _cut([(f"{c.where}={value(c.second)}",) for c in one.changed], CHANGED)
        pairs = zip(FIGURES, one.values, strict=False)
        shown = [figure.show(each.value) + MARK * each.stale + OTHER * each.other_tokens for figure, each in pairs]
        if one.state != DONE:
            shown = [one.state]
        shown += [""] * (len(FIGURES) - len(shown))
        rows.append([name, "\n".join(plain(line, 80) for (line,) in changed), *shown])
    right = range(2, 2 + len(FIGURES))
    table = grid(["experiment", "changed", *(figure.short.replace(" ", "\n") for figure in FIGURES)], rows, right)
    for column in right:
        table.columns[column].no_wrap = True
    to.print(table)
    if any(each.stale for one in found for each in one.values):
        to.print(Text(f"{MARK} {STALE}: an input of the stage has changed since (`llm compare` names it)", style="dim"))
    if any(each.other_tokens for one in found for each in one.values):
        text = f"{OTHER} not comparable with that of the commit: the losses are means over other tokens"
        to.print(Text(text, style="dim"))
    if all(one.is_baseline for one in found):
        more = f"{elsewhere} other commit{'s have' if elsewhere > 1 else ' has'} experiments: `llm experiments --all`. "
        said = f"No experiments here. {more if elsewhere else ''}`dvc exp run -S KEY=VALUE -n NAME` makes one."
        to.print(Text(said))


def value(found: Any) -> str:
    """A value of params.yaml or of a report as text."""
    if isinstance(found, bool) or found is None:
        return {True: "true", False: "false", None: "null"}[found]
    return f"{found:.6g}" if isinstance(found, float) else str(found)


def plain(text: str, most: int = 0) -> str:
    """The text without control characters, in one line, cut to `most` characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return f"{line[: most - 1]}…" if most and len(line) > most else line


def percent(found: float | None) -> str:
    """A probability as text; 100 % only if it is exactly that."""
    if found is None:
        return ""
    return "> 99 %" if 0.99 < found < 1 else f"{100 * found:.0f} %"


def moved(changes: Iterable[Change]) -> Iterator[Sequence[str]]:
    """Rows of a table of figures: name, before, after, change."""
    for change in changes:
        numbers = [one for one in (change.first, change.second) if isinstance(one, int | float)]
        by = f"{numbers[1] - numbers[0]:+.6g}" if len(numbers) == 2 else ""
        by = "not comparable" if change.apart else by
        yield change.where, plain(value(change.first), 24), plain(value(change.second), 24), by


def grid(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], right: Sequence[int] = ()) -> Table:
    """A table without lines; the columns in `right` are aligned to the right. Texts are never read as markup."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return table


def _sections(compared: Comparison) -> Iterator[tuple[str, Any]]:
    names = [plain(side.name, 20) for side in (compared.first, compared.second)]
    if compared.parameters:
        yield "Parameters", grid(["", *names], _changes(compared.parameters))
    if compared.stages:
        stages = [
            (one.name, listed(one.reasons, 6) or "the same inputs", "changed" if one.outputs else "the same")
            for one in compared.stages
        ]
        yield "Stages that ran", grid(["stage", "because of", "outputs"], stages)
    if compared.source_files:
        yield "Code", grid(["", ""], _cut(compared.source_files))
    if compared.data:
        yield "Data (md5)", grid(["", *names], _changes(compared.data))
    yield "Headline figures, 95 % intervals", _headlines(compared.headlines, names)
    tests = [Text(f"{line.figure.name}: {line.verdict.how}") for line in compared.headlines if line.says_more]
    if tests:
        yield "How they were compared", Text("\n").join(tests)
    if compared.curves:
        yield "Curves", _curves(compared, names)
    headline = {f"{line.figure.stage}: {line.figure.key}" for line in compared.headlines}
    shown = (change for change in compared.figures if change.where not in headline)
    others = [change for change in shown if "_ci95_" not in change.where]
    if others:
        yield "Other figures that moved", grid(["", *names, "change"], _cut(moved(others)), (1, 2, 3))
    if compared.flips:
        title = f"Messages that flipped: {compared.won} became right, {compared.lost} became wrong"
        yield title, grid(["row", "is", *names, "message"], _cut(_flips(compared.flips)))
    if compared.answers:
        yield f"Answers that changed: {len(compared.answers)}", _answers(compared.answers, names)


def _changes(changes: Iterable[Change]) -> Iterator[Sequence[str]]:
    return ((change.where, plain(value(change.first), 40), plain(value(change.second), 40)) for change in changes)


def _headlines(lines: Sequence[Line], names: Sequence[str]) -> Table:
    found: list[list[str | Text]] = []
    for line in lines:
        form = line.figure
        cells = [
            _with_interval(form.show(one.value), form.show_interval(one.interval)) for one in (line.first, line.second)
        ]
        by = form.show_difference(line.difference) if line.difference else ""
        by = _with_interval(by, form.show_interval(line.interval, signed=True))
        verdict = line.verdict.text.replace(", ", ",\n", 1)  # beside the intervals there is room for two lines
        found.append([form.name, *cells, by, Text(verdict, style=STYLES[line.verdict.tone])])
    return grid(["", *names, "difference", "verdict"], found)


def _with_interval(shown: str, interval: str) -> str:
    return f"{shown}\n{interval}" if interval else shown


def _curves(compared: Comparison, names: Sequence[str]) -> Table:
    found = []
    for report, *sides in compared.curves:
        columns = dict.fromkeys(curve.column for side in sides for curve in side)
        for column in columns:
            both = [next((curve for curve in side if curve.column == column), None) for side in sides]
            values = [number for curve in both if curve for number in curve.values]
            low, high = min(values), max(values)
            cells = [f"{curves.sparkline(one, low, high)} {one.values[-1]:.4g}" if one else MISSING for one in both]
            found.append((f"{report}: {column}", *cells))
    return grid(["each on one scale; the number is the last value", *names], found)


def _flips(flips: Sequence[Pair]) -> Iterator[Sequence[str | Text]]:
    for pair in flips:
        sides = [_prediction(one) for one in (pair.first, pair.second)]
        text = plain(pair.first.text or "(the text is not in DVC's cache)", 110)
        yield str(pair.first.row), plain(pair.first.actual, 16), *sides, text


def _prediction(message: Message) -> Text:
    said = f"{plain(message.predicted, 16)} {percent(message.probability)}"
    return Text(said, style=STYLES["better" if message.right else "worse"])


def _answers(pairs: Sequence[Pair], names: Sequence[str]) -> Table:
    found = []
    for pair in pairs:
        cells = [plain(pair.first.question, 90)]
        for one in (pair.first, pair.second):
            score = "" if one.score is None else f"[{one.score:g}] "
            cells.append(score + plain(one.text, 90))
        found.append(cells)
    table = grid(["question", *names], _cut(found))
    for column in table.columns:
        column.ratio = 1
    table.expand = True
    return table


def _cut(rows: Iterable[Sequence[Any]], most: int = LISTED) -> list[Sequence[Any]]:
    """At most `most` rows, and a line that says how many were left out."""
    found = list(rows)
    more = len(found) - most
    if more <= 1:  # one more row takes no more room than the line
        return found
    return [*found[:most], (f"… {more} more", *[""] * (len(found[0]) - 1))]
