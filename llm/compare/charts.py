"""Curves as SVG inside a page. Matplotlib draws them: 8 to 12 kB each, and no script."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from llm.common import plots
from llm.common.plots import Line
from llm.compare.curves import Curve
from llm.compare.terminal import plain

INK = "#010203"  # becomes the page's colour of text, light or dark
SETTINGS: Any = {
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "llm",  # the same ids in every run
    "text.parse_math": False,  # a label is not a formula
    "font.size": 10,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor")},
}
OURS = re.compile(r' id="[A-Za-z0-9.]+_\d+"')  # of groups; several charts in one page would repeat them
NOT_NEEDED = re.compile(
    r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>|font-family: [^;\"]*; ", re.DOTALL
)


def overlaid(title: str, sides: Sequence[tuple[str, Sequence[Curve]]]) -> Markup:
    """The curves of several runs in one chart: a colour for each run, a dash for each column.

    With one run, each column has a colour of its own.
    """
    columns = list(dict.fromkeys(curve.column for _, curves in sides for curve in curves))
    lines = []
    for number, (name, curves) in enumerate(sides):
        for curve in curves:
            at = columns.index(curve.column)
            colour, style = (at, 0) if len(sides) == 1 else (number, at)
            label = curve.column if len(sides) == 1 else f"{plain(name, 18)}: {curve.column}"
            lines.append(Line(curve.steps, curve.values, label, colour, style))
    return _draw(title, lines)


def _draw(title: str, lines: Sequence[Line]) -> Markup:
    import matplotlib as mpl

    with mpl.rc_context(SETTINGS):
        figure, axes = plots.figure()
        plots.draw(axes, lines, "step", INK)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = drawn.getvalue()
    svg = NOT_NEEDED.sub("", OURS.sub("", svg[svg.index("<svg") :])).replace(INK, "currentColor")
    head, _, rest = svg.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return Markup(f'{head} role="img" aria-label="{escape(title)}">{rest}')
