"""Figures and tables of the reports in MLflow, in the run of the stage and in that of the whole `dvc repro`.

The UI compares the tables of several runs side by side, so the figures are in a table too. Its charts would write all
parameters of a run above an image, and leave no room for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from llm.common import files
from llm.tracking import figures

MOST_ROWS = 2000  # of a table
# The UI groups the rows by the first column of a table, and compares the second one between runs.
FIRST = ("row", "instruction", "predicted", "model_response", "score", "actual", "output")


def show(client: Any, runs: Mapping[str, str], reports: Iterable[Path]) -> None:
    """Log the figures and the tables of reports in runs, in a folder named by the stage where that is given.

    What a run has stays as it is.
    """
    import mlflow

    reports = list(reports)
    drawn = {name: pixels for one in reports if one.suffix == ".csv" for name, pixels in figures.draw(one)}
    tables = {one.stem: rows for one in reports if (rows := _rows(one))}
    for run, stage in runs.items():
        folder = f"{stage}/" if stage else ""
        known = _names(client, run, f"{folder}figures")
        for name, pixels in drawn.items():
            if f"{name}.png" not in known:
                client.log_image(run, pixels, f"{folder}figures/{name}.png")
        if drawn:
            pictures = {"figure": list(drawn), "picture": [mlflow.Image(pixels) for pixels in drawn.values()]}
            table(client, run, f"{folder}figures_table", pictures)
        for name, rows in tables.items():
            columns = {column: [row.get(column) for row in rows] for column in rows[0]}
            table(client, run, f"{folder}{name}_table", columns)


def table(client: Any, run: str, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
    """Log a table. One of that name stays as it is: MLflow would add the rows to it."""
    path = PurePosixPath(f"{name}.json")
    if path.name not in _names(client, run, "" if path.parent == PurePosixPath() else str(path.parent)):
        order = sorted(columns, key=lambda column: FIRST.index(column) if column in FIRST else len(FIRST))
        client.log_table(run, {column: columns[column] for column in order}, str(path))


def _rows(report: Path) -> list[Mapping[str, Any]]:
    """The rows that a report shows as a table: those of a JSON list, or the predictions of the test split."""
    rows: Any = []
    if report.suffix == ".json":
        rows = files.read_json(report)
    elif report.name == "predictions.csv":
        rows = [row for row in files.csv_rows(report.read_bytes().decode()) if row.pop("split") == figures.SPLIT]
    return rows[:MOST_ROWS] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else []


def _names(client: Any, run: str, folder: str) -> set[str]:
    return {PurePosixPath(one.path).name for one in client.list_artifacts(run, folder or None)}
