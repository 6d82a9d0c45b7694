"""Pages that work offline: one HTML file with its styles and charts inside, without scripts."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from llm.compare import charts
from llm.compare.comparison import Comparison
from llm.compare.terminal import moved, percent, value

MOST = 300  # messages or answers in a page
TONES = {"better": "good", "worse": "bad", "neutral": ""}


def render(template: str, **values: Any) -> str:
    """Fill a template. Texts are escaped, so that no message or answer becomes markup."""
    loader = PackageLoader("llm.compare")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(most=MOST, percent=percent, tones=TONES, **values)


def comparison(compared: Comparison) -> str:
    """The page of a comparison."""
    names = [compared.first.name, compared.second.name]
    return render(
        "compare.html",
        title=f"{names[0]} → {names[1]}",
        c=compared,
        names=names,
        parameters=[(one.where, value(one.first), value(one.second)) for one in compared.parameters],
        stages=[(one.name, ", ".join(one.reasons), ", ".join(one.outputs)) for one in compared.stages],
        data=[(one.where, one.first, one.second) for one in compared.data],
        figures=list(moved(compared.figures)),
        charts=[
            (report, charts.overlaid(report, list(zip(names, sides, strict=True))))
            for report, *sides in compared.curves
        ],
    )
