"""The ledger: every printed number of the book in golden.yaml, measured here and compared by its class."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from llm.book.measures.common import MEASURES, Measured
from llm.book.measures.sources import Sources
from llm.book.runs import Run
from llm.common import files, params
from llm.common.errors import DATA, UserError
from llm.common.params import Problem

GOLDEN = Path(__file__).with_name("golden.yaml")
VERDICTS = ("equal", "within", "outside", "skipped", "open")
Verdict = Literal["equal", "within", "outside", "skipped", "open"]
KINDS = ("mirror", "run", "model")
HOW = """\
Written by `python -m llm verify --run chapter5 --write docs/book-numbers.md`, with the book's files in `LLM_MIRROR`
([data.md](data.md)). Of the classes, exact holds on any machine, digits on x86 Linux in fp32, close and band within
bounds, weights with OpenAI's weights. Skipped: what the number is of is not here; open: nothing measures it yet.
""".splitlines()


@dataclass(frozen=True)
class Row:
    """Printed values with their source, what measuring them needs, and how close ours must come.

    `values` are numbers as printed, separated by spaces: ours are rounded to as many places. `text` is compared
    whole. `within`, or `low` and `high`, take the place of the printed places.
    """

    id: str
    section: str  # ch02 to ch07, appA, appD, appE
    source: str  # where the book prints it
    kind: Literal["exact", "digits", "close", "band", "weights"]
    values: str = ""
    text: str = ""
    needs: tuple[str, ...] = ()  # mirror | run NAME | model FOLDER
    measure: str = ""
    args: dict[str, str] | None = None
    within: float | None = None
    low: float | None = None
    high: float | None = None
    open: str = ""  # why there is no measure yet

    @property
    def printed(self) -> list[str]:
        """The published values, one by one."""
        return [self.text] if self.text else self.values.replace(",", "").split()

    @property
    def published(self) -> str:
        """The published values on one short line."""
        return shorten(self.text or self.values)

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        if bool(self.text) == bool(self.values):
            yield "values", "stands beside text, or neither is there", "give one of the two"
        if bool(self.open) == bool(self.measure):
            yield "measure", "stands beside open, or neither is there", "give one of the two"
        if self.measure and self.measure not in MEASURES:
            yield "measure", f"{self.measure!r} is no measure", "see llm/book/measures/"
        if (self.low is None) != (self.high is None) or (self.low is not None and self.within is not None):
            yield "low", "goes with high, and without within", "give low and high, or within alone"
        if (self.kind == "band") != (self.low is not None) and self.kind != "weights" and not self.open:
            yield "low", f"does not go with kind {self.kind}", "a band has low and high, the others have not"
        if (self.kind == "close") != (self.within is not None) and self.kind != "weights":
            yield "within", f"does not go with kind {self.kind}", "close has it, exact and digits have not"
        if (
            self.kind == "weights"
            and not self.open
            and not any(need.startswith(("model", "run")) for need in self.needs)
        ):
            yield "needs", "names no model and no run", "say whose weights"
        for need in self.needs:
            if need.split()[0] not in KINDS:
                yield "needs", f"{need!r} is unknown", f"write one of {', '.join(KINDS)}"

    def compare(self, ours: Measured) -> Verdict:
        """Whether ours are the published values."""
        if isinstance(ours, str) or self.text:
            return "equal" if ours == (self.text or self.values) else "outside"
        if len(ours) != len(self.printed):
            return "outside"
        if self.low is not None and self.high is not None:
            return "within" if all(self.low <= value <= self.high for value in ours) else "outside"
        pairs = list(zip(self.printed, ours, strict=True))
        if self.within is not None:
            return "within" if all(abs(float(p) - value) <= self.within for p, value in pairs) else "outside"
        return "equal" if all(float(p) == round(value, places(p)) for p, value in pairs) else "outside"


@dataclass(frozen=True)
class Ledger:
    """All rows, and the runs whose reports some of them read."""

    runs: dict[str, Run]
    rows: tuple[Row, ...]

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the rows together."""
        for name, count in Counter(row.id for row in self.rows).items():
            if count > 1:
                yield "rows", f"{count} have the id {name}", "give each its own"
        for row in self.rows:
            for need in row.needs:
                kind, _, name = need.partition(" ")
                if kind == "run" and name not in self.runs:
                    yield "rows", f"{row.id} needs the run {name!r}, which is not among runs", "add it there"


@dataclass(frozen=True)
class Result:
    """A row with what was measured: our values as text, the verdict, the reason where there is none."""

    row: Row
    verdict: Verdict
    ours: str = ""
    reason: str = ""


def places(printed: str) -> int:
    """Decimal places of a printed number."""
    return len(printed.partition(".")[2])


def read(path: Path = GOLDEN) -> Ledger:
    """The ledger of a file; raises UserError for every unknown key, wrong type and contradiction in it."""
    try:
        loaded = yaml.safe_load(files.read_text(path))
    except yaml.YAMLError as error:
        raise UserError(str(path), " ".join(str(error).split()), "correct the YAML", DATA) from None
    return params.parse(Ledger, loaded, str(path))


def verify(ledger: Ledger, root: Path, only: str = "*") -> Iterator[Result]:
    """Measure and compare each row whose id fits the pattern, in the order of the file."""
    sources = Sources(root, ledger.runs)
    for row in ledger.rows:
        if fnmatch.fnmatchcase(row.id, only):
            yield _check(row, sources)


def table(results: Sequence[Result]) -> list[str]:
    """Lines of the table, and the counts per section."""
    lines = []
    for result in results:
        row = result.row
        lines.append(f"{result.verdict:<8} {row.id:<32} {row.published:<44} {shorten(result.ours)}")
        if result.reason:
            lines.append(f"{'':<9}{result.reason}")
    return [*lines, "", *counts(results)]


def counts(results: Sequence[Result]) -> list[str]:
    """How many values of each section have which verdict."""
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
    """The table as a page."""
    head = ["# The book's numbers and ours", *HOW, ""]
    body = ["| id | source | class | published | ours | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for result in results:
        row = result.row
        cells = [row.id, row.source, row.kind, shorten(row.text or row.values, 120), shorten(result.ours, 120)]
        said = f"{result.verdict}: {result.reason}" if result.reason else result.verdict
        body.append("| " + " | ".join(cell.replace("|", "\\|") for cell in [*cells, said]) + " |")
    return "\n".join([*head, "```", *counts(results), "```", "", *body]) + "\n"


def shorten(text: str, width: int = 42) -> str:
    """One line of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _check(row: Row, sources: Sources) -> Result:
    if row.open:
        return Result(row, "open", reason=row.open)
    for need in sorted(row.needs, key=lambda need: not need.startswith("run ")):  # a model is the one of the run
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
