"""The look of the project's charts, drawn by Matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f7fd1", "#e0781e", "#3a9d5d", "#a05cc4")  # readable on white and on black
STYLES = ("-", "--", ":", "-.")
INCHES = (4.2, 2.7)


@dataclass(frozen=True)
class Line:
    """A line of a chart: its points, its name, and its numbers among the colours and the dashes."""

    x: Sequence[float]
    y: Sequence[float]
    label: str
    colour: int = 0
    style: int = 0


def figure(size: tuple[float, float] = INCHES) -> tuple[Figure, Axes]:
    """An empty chart of a size in inches."""
    from matplotlib.figure import Figure

    found = Figure(figsize=size, layout="constrained")
    axes = found.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return found, axes


def draw(axes: Axes, lines: Iterable[Line], x: str, ink: str = "black") -> None:
    """Draw lines with a grid and a legend; a line of one point is a dot. `x` names the axis."""
    for line in lines:
        colour, style = COLOURS[line.colour % len(COLOURS)], STYLES[line.style % len(STYLES)]
        axes.plot(line.x, line.y, style, color=colour, label=line.label, marker="o" if len(line.x) == 1 else None)
    axes.set_xlabel(x)
    axes.grid(alpha=0.2, color=ink)
    axes.legend(frameon=False, fontsize=8)
