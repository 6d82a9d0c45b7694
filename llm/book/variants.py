"""Chapter 6's table of variants: its rows as DVC experiments, and their results next to the published ones.

A row is a list of `key=value` words for `dvc exp run -S`. The table compares each row with row 1 on the same test
messages (McNemar's test), since the difference of two accuracies is less noisy than each accuracy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from ruamel.yaml.error import YAMLError

from llm.common import dvc_exp, files, params, yaml_file
from llm.common.errors import DATA, USAGE, UserError, raise_all
from llm.common.params import Problem
from llm.evaluate.stats import mcnemar, wilson

FILE = Path("configs/ablation/chapter6.yaml")
TARGET = "finetune_spam"  # the last stage that an experiment runs
PREDICTIONS = "reports/finetune_spam/predictions.csv"
SIGNIFICANT = 0.05
WEIGHTS = "`python -m llm use configs/book.yaml` adds 124M; gpt2-medium.yaml, -large and -xl add the larger models"
S = TypeVar("S")


@dataclass(frozen=True)
class Row:
    """A variant."""

    number: int
    name: str
    published: float  # test accuracy in percent
    needs: Literal["weights", "nothing"]  # weights: those of OpenAI
    set: tuple[str, ...]  # key=value, overrides params.yaml
    same_as: int | None = None  # the row with the same settings

    @property
    def experiment(self) -> str:
        return f"ablation-{self.same_as or self.number:02d}"


@dataclass(frozen=True)
class Ablation:
    """The whole table."""

    common: tuple[str, ...]  # settings of every row; the row's own settings override them
    rows: tuple[Row, ...]

    def problems(self) -> Iterator[Problem]:
        numbers = [row.number for row in self.rows]
        if sorted(set(numbers)) != sorted(numbers) or 1 not in numbers:
            yield "rows", f"numbered {numbers}", "give each row its own number, and one of them number 1"
        for row in self.rows:
            if row.same_as is not None and row.same_as not in set(numbers) - {row.number}:
                yield "rows", f"row {row.number} has same_as {row.same_as}, which is no other row", "name another row"

    def settings(self, row: Row) -> dict[str, str]:
        """Settings of `row` by dotted key; raises UserError for a word without an equals sign."""
        words = [*self.common, *row.set]
        wrong = [word for word in words if "=" not in word]
        where = f"{FILE}: row {row.number}"
        raise_all([UserError(where, f"{word!r} sets nothing", "write key=value", USAGE) for word in wrong])
        return {key: value for key, _, value in (word.partition("=") for word in words)}

    def row(self, number: int) -> Row:
        """The row with this number; raises UserError for an unknown number."""
        for row in self.rows:
            if row.number == number:
                return row
        raise UserError("command line", f"there is no row {number}", f"name rows from 1 to {len(self.rows)}", USAGE)


@dataclass(frozen=True)
class Outcome:
    """Whether an experiment classified each test message correctly, by the message's row and class."""

    model: str  # name of the model folder it started from
    right: Mapping[tuple[str, str], bool]

    @property
    def hits(self) -> int:
        return sum(self.right.values())


def read(path: Path = FILE) -> Ablation:
    """Read a table; raises UserError for keys that are unknown, missing or of the wrong type."""
    return params.read_all(Ablation, path)


def with_settings(settings: Mapping[str, str], schema: type[S], where: str) -> S:
    """params.yaml with these settings applied; raises UserError if the result is not valid."""
    sections = params.load()
    for key, text in settings.items():
        try:
            value = yaml_file.plain().load(text)
        except YAMLError:
            raise UserError(f"{where}: {key}", f"{text!r} is not YAML", "correct the value", USAGE) from None
        *path, last = key.split(".")
        section: Any = sections
        for name in path:
            section = section.get(name) if isinstance(section.get(name), dict) else {}
        if last not in section:
            raise UserError(f"{where}: {key}", "unknown key", "name one of params.yaml", USAGE)
        section[last] = value
    return params.parse(schema, sections, where)


def queue(table: Ablation, numbers: Sequence[int], schema: type[Any]) -> Iterator[str]:
    """Queue rows as experiments and yield one line for each; without `numbers`, all rows whose needs are met.

    All rows are checked before the first one is queued. Raises UserError for a row in `numbers` that cannot run.
    """
    rows = [table.row(number) for number in numbers] or list(table.rows)
    skipped = {row.number: reason for row in rows if (reason := _obstacle(table, row, schema, bool(numbers)))}
    if numbers:
        raise_all([UserError(f"row {number}", *reason, USAGE) for number, reason in skipped.items()])
    there = experiments()
    for row in rows:
        shown = f"row {row.number:>2}, {row.name}"
        if row.number in skipped:
            yield f"{shown}: skipped: {skipped[row.number][0]}"
        elif row.experiment in there:
            state = there[row.experiment][1]
            yield f"{shown}: {row.experiment} exists ({state}); `dvc exp remove {row.experiment}` lets it run again"
        else:
            settings = [word for key, value in table.settings(row).items() for word in ("-S", f"{key}={value}")]
            dvc_exp.run("exp", "run", "--queue", "-n", row.experiment, *settings, TARGET)
            there[row.experiment] = ("", "queued")
            yield f"{shown}: queued as {row.experiment}"
    if skipped:
        yield f"to run the skipped rows: {WEIGHTS}; or name a row to run it with the current model"


def experiments() -> dict[str, tuple[str, str]]:
    """Commit and state (queued, running, success, failed) of the experiments on git's HEAD, by name."""
    found = [one for group in dvc_exp.by_commit() for one in dvc_exp.newest(group)]
    return {one["name"]: (dvc_exp.revision(one) or "", dvc_exp.state(one)) for one in found}


def outcome(commit: str) -> Outcome:
    """Read an experiment's outcome from its commit."""
    text, settings = (
        dvc_exp.output(["git", "show", f"{commit}:./{path}"], f"{path} of experiment {commit[:7]}")
        for path in (PREDICTIONS, params.PARAMS)
    )
    rows = [row for row in files.csv_rows(text) if row["split"] == "test"]
    model = Path(yaml_file.plain().load(settings)["finetune_spam"]["init_from"]).name
    return Outcome(model, {(row["row"], row["actual"]): row["actual"] == row["predicted"] for row in rows})


def markdown(table: Ablation, outcomes: Mapping[str, Outcome], states: Mapping[str, str]) -> Iterator[str]:
    """The lines of the table; `outcomes` and `states` are by name of experiment.

    Raises UserError if a row was tested on other messages than row 1.
    """
    yield "| row | variant | published % | ours % | 95 % interval | from | against row 1, on the same messages |"
    yield "| ---: | --- | ---: | ---: | --- | --- | --- |"
    first = outcomes.get(table.row(1).experiment)
    for row in table.rows:
        begin = f"| {row.number} | {row.name} | {row.published:.2f} |"
        ours = outcomes.get(row.experiment)
        if ours is None:
            yield f"{begin} {states.get(row.experiment, 'not run')} | | | |"
            continue
        low, high = wilson(ours.hits, len(ours.right))
        verdict = ""
        if row.number != 1 and first:
            verdict = f"the same run as row {row.same_as}" if row.same_as else _verdict(row, first, ours)
        share = 100 * ours.hits / len(ours.right)
        yield f"{begin} {share:.2f} | {100 * low:.2f} to {100 * high:.2f} | {ours.model} | {verdict} |"


def render(table: Ablation) -> list[str]:
    """The table of the experiments on git's HEAD, with a note on how to read it."""
    found = experiments()
    names = {row.experiment for row in table.rows}
    done = {name: commit for name, (commit, state) in found.items() if name in names and state == dvc_exp.DONE}
    outcomes = {name: outcome(commit) for name, commit in done.items()}
    lines = list(markdown(table, outcomes, {name: state for name, (_, state) in found.items()}))
    if outcomes:
        sizes = sorted({len(one.right) for one in outcomes.values()})
        messages = " or ".join(map(str, sizes))
        lines += ["", f"{messages} test messages, Wilson intervals. A row is better or worse than row 1 if McNemar's"]
        lines += [f"exact test gives p < {SIGNIFICANT}; by chance, that happens to one in twenty equal rows."]
    return lines


def _verdict(row: Row, first: Outcome, ours: Outcome) -> str:
    if first.right.keys() != ours.right.keys():
        what = f"row {row.number} was tested on other messages than row 1"
        raise UserError(row.experiment, what, "remove the experiments with `dvc exp remove` and queue them again", DATA)
    lost = sum(was and not ours.right[message] for message, was in first.right.items())
    won = sum(ours.right[message] and not was for message, was in first.right.items())
    p = mcnemar(lost, won)
    said = "not distinguishable" if p >= SIGNIFICANT else "better" if won > lost else "worse"
    return f"{said} (+{won} -{lost}, p = {p:.2g})"


def _obstacle(table: Ablation, row: Row, schema: type[Any], named: bool) -> tuple[str, str] | None:
    """Why a row cannot run, or should not run unless it was `named`, and the fix; None if it can."""
    if row.same_as:
        return f"it repeats row {row.same_as}", f"queue row {row.same_as}"
    everything = with_settings(table.settings(row), schema, f"{FILE}: row {row.number}")
    model = Path(everything.finetune_spam.init_from)
    source = everything.import_gpt2.get(model.name) if model.parent == Path("models") else None
    if source is None and not model.exists():
        return f"params.yaml does not import {model}", WEIGHTS
    if row.needs == "weights" and not named and not (source and source.source.startswith("data/raw/")):
        return f"it needs OpenAI's weights, not {model}", WEIGHTS
    return None
