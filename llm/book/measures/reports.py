"""Curves, metrics and answers from the reports of finished runs."""

from __future__ import annotations

from llm.book.measures.common import Measured, measure
from llm.book.measures.sources import Sources
from llm.common import files
from llm.common.errors import DATA, UserError


@measure
def curve(sources: Sources, file: str, column: str, steps: str) -> Measured:
    """A column of a report at these steps; `first` and `last` are rows, `best` is the lowest value."""
    rows = files.csv_rows(files.read_text(sources.root / "reports" / file))
    at = {row["step"]: float(row[column]) for row in rows}
    at |= {"first": float(rows[0][column]), "last": float(rows[-1][column]), "best": min(at.values())}
    absent = [step for step in steps.split() if step not in at]
    if absent:
        what = f"has no row of step {absent[0]}"
        raise UserError(f"reports/{file}", what, "set eval_every to the book's value", DATA)
    return [at[step] for step in steps.split()]


@measure
def metric(sources: Sources, file: str, keys: str, times: str) -> Measured:
    """Values of a metrics file, each multiplied by `times`."""
    values = files.read_json(sources.root / "reports" / file)
    return [float(values[key]) * float(times) for key in keys.split()]


@measure
def first_answers(sources: Sources, number: str) -> Measured:
    """An answer of the fine-tuned model, by its number from 0."""
    return str(files.read_json(sources.root / "reports/respond/responses.json")[int(number)]["model_response"])
