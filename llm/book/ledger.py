"""The ledger: the printed numbers of the book (golden.yaml), measured here and compared by class."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from llm.book.measures.common import MEASURES, Measured
from llm.book.measures.sources import Sources
from llm.book.runs import Run
from llm.common import params
from llm.common.params import Problem

GOLDEN = Path(__file__).with_name("golden.yaml")
Verdict = Literal["equal", "within", "outside", "skipped", "open"]
VERDICTS = get_args(Verdict)
KINDS = ("mirror", "run", "model")
HOW = """\
Written by `llm verify --run chapter5 --write docs/book-numbers.md`, with the book's files in `LLM_MIRROR`
([data.md](data.md)). The classes: exact is the same on any machine, digits on x86 Linux in fp32; close and band allow a
range; weights needs OpenAI's weights. A skipped number needs a file, a run or a model that is not here; an open number
has no measure.

Where the print edition and the book's repository (since 2025-11-01) print different numbers, both are here. The losses
of chapter 5 in the repository are from another device. Ours are those of the print edition, and within a tolerance of
the others, which is given for each point. A curve that stays flat is outside of every range.
""".splitlines()


@dataclass(frozen=True)
class Row:
    """Printed values, their source, what the measure needs, and the allowed difference.

    `values` are numbers as printed, separated by spaces; our values are rounded to the same decimal places, unless
    `within` or `low` and `high` give a tolerance: one number for all values, or one for each, as for the points of a
    curve. `text` is compared as a whole. `edition` is set where the print edition and the repository differ.
    """

    id: str
    section: str  # ch02 to ch07, appA, appD, appE
    source: str  # section or exercise of the book
    kind: Literal["exact", "digits", "close", "band", "weights"]
    values: str = ""
    text: str = ""
    needs: tuple[str, ...] = ()  # mirror | run NAME | model FOLDER
    measure: str = ""
    args: dict[str, str] | None = None
    within: str = ""
    low: str = ""
    high: str = ""
    edition: Literal["", "print", "repository"] = ""
    open: str = ""  # why no measure exists yet

    @property
    def printed(self) -> list[str]:
        """The published values, one string each."""
        return [self.text] if self.text else self.values.replace(",", "").split()

    @property
    def published(self) -> str:
        """The published values on one short line."""
        return shorten(self.text or self.values)

    def problems(self) -> Iterator[Problem]:
        if bool(self.text) == bool(self.values):
            yield "values", "given together with text, or both are missing", "give exactly one of values and text"
        if bool(self.open) == bool(self.measure):
            yield "measure", "given together with open, or both are missing", "give exactly one of measure and open"
        if self.measure and self.measure not in MEASURES:
            yield "measure", f"{self.measure!r} is no measure", "name a function of llm/book/measures/"
        if bool(self.low) != bool(self.high) or (self.low and self.within):
            yield "low", "needs high, and excludes within", "give low and high, or only within"
        wrong = [name for name in ("within", "low", "high") if not self._is_tolerance(getattr(self, name))]
        for name in wrong:
            yield name, f"{getattr(self, name)!r} is not one number, or one for each value", "correct the numbers"
        compared = self.low and self.high and not wrong and not self.text
        if compared and self.compare([float(value) for value in self.printed]) == "outside":
            yield "values", "outside of low and high", "correct the bounds"
        if (self.kind == "band") != bool(self.low) and self.kind != "weights" and not self.open:
            yield "low", f"does not fit kind {self.kind}", "give low and high for kind band only"
        if (self.kind == "close") != bool(self.within) and self.kind != "weights":
            yield "within", f"does not fit kind {self.kind}", "give within for kind close only"
        if self.kind == "weights" and not self.open and not any(n.startswith(("model", "run")) for n in self.needs):
            yield "needs", "names no model and no run", "add the model or the run"
        for need in self.needs:
            if need.split()[0] not in KINDS:
                yield "needs", f"{need!r} is unknown", f"begin with one of {', '.join(KINDS)}"

    def compare(self, ours: Measured) -> Verdict:
        if isinstance(ours, str) or self.text:
            return "equal" if ours == (self.text or self.values) else "outside"
        if len(ours) != len(self.printed):
            return "outside"
        published = [float(value) for value in self.printed]
        if self.within:
            near = zip(published, ours, self._each(self.within), strict=True)
            return "within" if all(abs(value - our) <= most for value, our, most in near) else "outside"
        if self.low:
            bounds = zip(self._each(self.low), ours, self._each(self.high), strict=True)
            return "within" if all(low <= our <= high for low, our, high in bounds) else "outside"
        pairs = zip(self.printed, ours, strict=True)
        return "equal" if all(float(p) == round(value, places(p)) for p, value in pairs) else "outside"

    def _is_tolerance(self, numbers: str) -> bool:
        try:
            return len([float(number) for number in numbers.split()]) in (0, 1, len(self.printed))
        except ValueError:
            return False

    def _each(self, numbers: str) -> list[float]:
        """One number for each value."""
        given = [float(number) for number in numbers.split()]
        return given * len(self.printed) if len(given) == 1 else given


@dataclass(frozen=True)
class Ledger:
    """All rows, and the runs whose reports they read."""

    runs: dict[str, Run]
    rows: tuple[Row, ...]

    def problems(self) -> Iterator[Problem]:
        for name, count in Counter(row.id for row in self.rows).items():
            if count > 1:
                yield "rows", f"{count} rows have the id {name}", "give each row its own id"
        for row in self.rows:
            for need in row.needs:
                kind, _, name = need.partition(" ")
                if kind == "run" and name not in self.runs:
                    yield "rows", f"{row.id} needs the run {name!r}, which is not in runs", "add it to runs"


@dataclass(frozen=True)
class Result:
    """A row with its verdict, our values as text, and the reason if it was not measured."""

    row: Row
    verdict: Verdict
    ours: str = ""
    reason: str = ""


def places(printed: str) -> int:
    """Number of decimal places of a printed number."""
    return len(printed.partition(".")[2])


def read(path: Path = GOLDEN) -> Ledger:
    """Read a ledger file; raises UserError for unknown keys, wrong types and contradictions."""
    return params.read_all(Ledger, path)


def verify(ledger: Ledger, root: Path, only: str = "*") -> Iterator[Result]:
    """Measure and compare each row whose id matches the pattern, in file order."""
    sources = Sources(root, ledger.runs)
    for row in ledger.rows:
        if fnmatch.fnmatchcase(row.id, only):
            yield _check(row, sources)


def table(results: Sequence[Result]) -> list[str]:
    """The table as lines of text, with the counts of each section."""
    lines = []
    for result in results:
        row = result.row
        lines.append(f"{result.verdict:<8} {row.id:<32} {row.published:<44} {shorten(result.ours)}")
        if result.reason:
            lines.append(f"{'':<9}{result.reason}")
    return [*lines, "", *counts(results)]


def counts(results: Sequence[Result]) -> list[str]:
    """Number of values per section and verdict, as lines of text."""
    lines = [f"{'values':<10}" + "".join(f"{name:>9}" for name in VERDICTS)]
    sections = list(dict.fromkeys(result.row.section for result in results))
    for section in [*sections, "all"]:
        count: Counter[str] = Counter()
        for result in results:
            if section in (result.row.section, "all"):
                count[result.verdict] += len(result.row.printed)
        lines.append(f"{section:<10}" + "".join(f"{count[name]:>9}" for name in VERDICTS))
    return lines


def markdown(results: Sequence[Result]) -> str:
    """The table as a Markdown page."""
    head = ["# The book's numbers and ours", *HOW, ""]
    body = ["| id | source | class | published | ours | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for result in results:
        row = result.row
        source = f"{row.source} ({row.edition})" if row.edition else row.source
        cells = [row.id, source, row.kind, shorten(row.text or row.values, 120), shorten(result.ours, 120)]
        said = f"{result.verdict}: {result.reason}" if result.reason else result.verdict
        body.append("| " + " | ".join(cell.replace("|", "\\|") for cell in [*cells, said]) + " |")
    return "\n".join([*head, "```", *counts(results), "```", "", *body]) + "\n"


def shorten(text: str, width: int = 42) -> str:
    """`text` on one line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _check(row: Row, sources: Sources) -> Result:
    if row.open:
        return Result(row, "open", reason=row.open)
    # Runs come first, since a model is read from the folder of its run.
    for need in sorted(row.needs, key=lambda need: not need.startswith("run ")):
        if reason := sources.missing(need):
            return Result(row, "skipped", reason=reason)
        if need.startswith("run "):
            sources = sources.of_run(need.partition(" ")[2])
    arguments: dict[str, Any] = row.args or {}
    ours = MEASURES[row.measure](sources, **arguments)
    verdict = row.compare(ours)
    return Result(row, verdict, _show(row, ours))


def _show(row: Row, ours: Measured) -> str:
    if isinstance(ours, str):
        return ours
    digits = [places(printed) for printed in row.printed]
    if len(digits) != len(ours):
        digits = [6] * len(ours)
    return " ".join(f"{value:.{n}f}" for value, n in zip(ours, digits, strict=True))
