"""A plan in a terminal of at most 100 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from llm.compare.terminal import grid, plain
from llm.tracking.record import duration

if TYPE_CHECKING:
    from llm.plan.estimates import Expected

REASONS = 2  # of a stage; the others are counted


def show(found: Sequence[Expected], number: int, to: Console) -> None:
    """Print which of `number` stages would run, why, and what they are expected to take."""
    if not found:
        to.print(f"Nothing to run: all {number} stages are as in dvc.lock.")
        return
    rows = []
    for one in found:
        time = duration(one.estimate.seconds) if one.estimate else "?"
        memory = f"{one.estimate.memory / 1e9:.1f} GB" if one.estimate and one.estimate.memory else ""
        rows.append([one.planned.name, _why(one), time, memory, one.basis])
    to.print(grid(["stage", "because of", "time", "memory", "from"], rows, (2, 3)))
    to.print()
    to.print(Text(summary(found, number)))
    if any(reason.startswith("after ") for one in found for reason in one.planned.reasons):
        to.print(Text("A stage that runs after another one is skipped if that one makes the same bytes.", style="dim"))


def summary(found: Sequence[Expected], number: int) -> str:
    """One line: how many stages would run, and about how long."""
    if not found:
        return f"nothing to run: all {number} stages are as in dvc.lock"
    cached = sum(one.planned.cached for one in found)
    known = [one.estimate.seconds for one in found if one.estimate]
    text = f"{len(found) - cached} of {number} stages run"
    text += f", {cached} come from the cache of runs" if cached else ""
    text += f"; about {duration(sum(known))}"
    unknown = [one.planned.name for one in found if one.estimate is None]
    text += f" without {', '.join(unknown)}" if unknown else ""
    peaks = [one.estimate.memory for one in found if one.estimate and one.estimate.memory]
    return text + (f", {max(peaks) / 1e9:.1f} GB of memory at the peak" if peaks else "")


def _why(one: Expected) -> str:
    reasons = [plain(reason, 44) for reason in one.planned.reasons]
    more = len(reasons) - REASONS
    return "\n".join([*reasons[:REASONS], *([f"and {more} more"] if more > 0 else [])])
