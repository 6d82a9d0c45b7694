"""The curves in the reports: every column of a CSV file that has a column `step`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm.compare.snapshot import REPORTS, Snapshot

NOT_DRAWN = ("step", "tokens_seen", "lr")
BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Curve:
    """The values of a column over the steps."""

    column: str
    steps: tuple[float, ...]
    values: tuple[float, ...]


def read(snapshot: Snapshot) -> dict[str, list[Curve]]:
    """The curves of a run by chart, in the order of the stages. Empty fields are left out.

    A report with one quantity is one chart, such as `pretrain/loss`. Others have a chart for each quantity, which is a
    column without `train_` and `val_`: `finetune_dpo/curve: margin`.
    """
    found: dict[str, list[Curve]] = {}
    order = {stage: number for number, stage in enumerate(snapshot.stages)}
    for path in sorted(snapshot.reports, key=lambda path: order.get(path.split("/")[1], len(order))):
        if path.endswith(".csv") and (rows := snapshot.rows(path)) and "step" in rows[0]:
            name = path.removeprefix(f"{REPORTS}/").removesuffix(".csv")
            charts: dict[str, list[Curve]] = {}
            for column in rows[0]:
                if column not in NOT_DRAWN and (curve := _curve(rows, column)):
                    charts.setdefault(column.removeprefix("train_").removeprefix("val_"), []).append(curve)
            found |= {name if len(charts) == 1 else f"{name}: {what}": drawn for what, drawn in charts.items()}
    return found


def sparkline(curve: Curve, low: float, high: float) -> str:
    """The curve in one line of at most 16 block characters, on a scale from `low` to `high`."""
    scale = (len(BARS) - 1) / (high - low) if high > low else 0
    values = curve.values[:: max(1, -(-len(curve.values) // 16))]
    return "".join(BARS[round((value - low) * scale)] for value in values)


def _curve(rows: Sequence[dict[str, str]], column: str) -> Curve | None:
    try:
        points = [(float(row["step"]), float(row[column])) for row in rows if row[column]]
    except (TypeError, ValueError):  # texts, such as samples, or a row that is too short
        return None
    return Curve(column, *map(tuple, zip(*points, strict=True))) if points else None
