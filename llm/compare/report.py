"""The report of the run in the workspace as a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm.common.dvc_lock import hashes
from llm.common.errors import DATA, UserError
from llm.common.params import PARAMS, flat
from llm.compare import changes, charts, curves, pages, rows
from llm.compare.baselines import baselines, confusion, errors
from llm.compare.headlines import FIGURES, STAGES, STALE, value
from llm.compare.provenance import provenance
from llm.compare.snapshot import REPORTS, WORKSPACE, Snapshot
from llm.compare.terminal import value as shown


def page() -> str:
    """The page. Raises UserError if no stage has run."""
    run = Snapshot(WORKSPACE, None)
    if not run.stages:
        raise UserError("dvc.lock", "is missing or empty: no stage has run", "run `llm repro`", DATA)
    answers = sorted(rows.answers(run), key=lambda one: -1.0 if one.score is None else one.score)
    return pages.render(
        "report.html",
        title="Report of a run",
        notes=[*changes.not_run(run, STAGES), *changes.not_rerun(run, STAGES)],
        stale=STALE,
        headlines=[(figure, value(figure, run)) for figure in FIGURES],
        stages=[(name, str(one.get("cmd")), ", ".join(hashes(one, "outs"))) for name, one in run.stages.items()],
        data=[(name, list(values.items())) for name, values in _data(run)],
        charts=[(name, charts.overlaid(name, [("", found)])) for name, found in curves.read(run).items()],
        samples=list(_samples(run)),
        errors=errors(run),
        confusion=confusion(run),
        calibration=_calibration(run),
        answers=answers,
        baselines=baselines(run),
        figures=[(name, shown(found)) for name, found in changes.all_figures(run).items()],
        params=run.text(str(PARAMS)) or "",
        origin=provenance(run),
    )


def _data(run: Snapshot) -> Iterator[tuple[str, dict[str, Any]]]:
    """What each data set contains, as the tokenize stages report it."""
    folder = f"{REPORTS}/tokenize/"
    for path in run.reports:
        if path.startswith(folder) and path.endswith(".json") and isinstance(values := run.json(path), dict):
            yield path.removeprefix(folder).removesuffix(".json"), {k: shown(v) for k, v in flat(values).items()}


def _samples(run: Snapshot) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """The tables of texts over the steps."""
    for path in run.reports:
        if path.endswith(".csv") and (found := run.rows(path)) and {"step", "text"} <= set(found[0]):
            yield path.removeprefix(f"{REPORTS}/"), [(row["step"], row["text"]) for row in found]


def _calibration(run: Snapshot) -> list[list[str]]:
    """The header and the rows of the test split; empty if the run has no such report."""
    found = [row for row in run.rows(rows.CALIBRATION) if row.get("split") == rows.TEST]
    return [list(found[0]), *(list(row.values()) for row in found)] if found else []
