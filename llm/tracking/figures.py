"""Pictures of the reports of a stage, for MLflow: its own charts show one metric each, and no matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm.common import files, plots
from llm.common.plots import Line

DOTS = 160  # for each inch
SPLIT = "test"  # what a classifier is judged by
Row = dict[str, str]


def draw(report: Path) -> Iterator[tuple[str, Any]]:
    """Draw what a CSV report shows; yield the name of each figure, and its pixels as (height, width, 3) bytes.

    - the columns `train_<name>` and `val_<name>` over `step`, in one chart
    - `predictions.csv`: the confusion matrix of the test split
    - `calibration.csv`: the accuracy on the test split by confidence
    """
    rows = files.csv_rows(report.read_bytes().decode())
    if not rows:
        return
    of_split = [row for row in rows if row.get("split") == SPLIT]
    if "step" in rows[0]:
        yield from _curves(rows)
    elif report.stem == "predictions" and of_split:
        yield "confusion", _confusion(of_split)
    elif report.stem == "calibration" and of_split:
        yield "calibration", _calibration(of_split)


def _curves(rows: Sequence[Row]) -> Iterator[tuple[str, Any]]:
    for column in rows[0]:
        name = column.removeprefix("train_")
        if name == column or f"val_{name}" not in rows[0]:
            continue
        figure, axes = plots.figure()
        lines = []
        for number, (split, label) in enumerate([("train", "training"), ("val", "validation")]):
            points = [(float(row["step"]), float(row[f"{split}_{name}"])) for row in rows if row[f"{split}_{name}"]]
            if points:
                steps, values = zip(*points, strict=True)
                lines.append(Line(steps, values, label, number))
        plots.draw(axes, lines, "updates")
        axes.set_ylabel(name.replace("_", " "))
        yield name, _pixels(figure)


def _confusion(rows: Sequence[Row]) -> Any:
    labels = [column.removeprefix("p_") for column in rows[0] if column.startswith("p_")]
    counts = Counter((row["actual"], row["predicted"]) for row in rows)
    side = min(8.0, 2.4 + 0.4 * len(labels))
    figure, axes = plots.figure((side, side))
    matrix = [[counts[actual, predicted] for predicted in labels] for actual in labels]
    axes.imshow(matrix, cmap="Blues")
    most = max(map(max, matrix))
    for y, row in enumerate(matrix):
        for x, count in enumerate(row):
            axes.text(x, y, str(count), ha="center", va="center", color="white" if 2 * count > most else "black")
    axes.set_xticks(range(len(labels)), labels, rotation=45 if len(labels) > 4 else 0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    axes.set_title(f"{len(rows)} {SPLIT} messages", fontsize=10)
    return _pixels(figure)


def _calibration(rows: Sequence[Row]) -> Any:
    figure, axes = plots.figure((3.4, 3.4))
    lowest = min(float(row["confidence_from"]) for row in rows)
    plots.draw(axes, [Line([lowest, 1], [lowest, 1], "as right as confident", 1, 1)], "mean confidence")
    for row in rows:
        x, y, n = float(row["mean_confidence"]), float(row["accuracy"]), int(row["n"])
        axes.scatter(x, y, 30 + 2 * n, plots.COLOURS[0], alpha=0.7)
        axes.annotate(str(n), (x, y), textcoords="offset points", xytext=(-5, 5), ha="right", fontsize=8)
    axes.set_ylabel("accuracy")
    axes.set_title(f"{sum(int(row['n']) for row in rows)} {SPLIT} messages by confidence", fontsize=10)
    return _pixels(figure)


def _pixels(figure: Any) -> Any:
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    figure.set_dpi(DOTS)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
