"""What MLflow knows of the run that made an artifact."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.tracking import spool


@dataclass(frozen=True)
class RunFacts:
    """One run."""

    run_id: str
    stage: str
    status: str
    started: float  # seconds since 1970
    seconds: float | None  # None: it has not ended
    user: str
    commit: str
    dirty: bool  # sources differed from the commit
    outputs: dict[str, str]  # path and md5
    children: dict[str, str]  # of a whole `dvc repro`: stages and their run ids
    metrics: dict[str, float]


def run(root: Path, run_id: str) -> RunFacts | None:
    """The run with this id; None if there is none."""
    return _ask(root, lambda client, _experiment: _get(client, run_id))


def maker(root: Path, path: str, md5: str) -> RunFacts | None:
    """The newest run that wrote this output; None if tracking has none."""

    def ask(client: Any, experiment: str) -> RunFacts | None:
        found = client.search_runs([experiment], f"tags.`{spool.OUTPUT}{path}` = '{md5}'", max_results=1)
        if found:
            return _facts(client, found[0])
        versions = client.search_model_versions(f"tags.`dvc.md5` = '{md5}'")  # of runs without these tags
        ids = [one.run_id for one in versions if one.tags.get("path") == path and one.run_id]
        return _get(client, ids[0]) if ids else None

    return _ask(root, ask)


def _ask(root: Path, question: Callable[[Any, str], RunFacts | None]) -> RunFacts | None:
    """The answer of MLflow, given a client and the experiment's id; None if there is no server (a warning)."""
    scheme, _, database = spool.tracking_uri(root).partition(":///")
    if scheme == "sqlite" and not Path(root, database).is_file():  # a client would make one
        return None
    try:
        client, experiment = spool.connect(root)
        return question(client, experiment) if experiment else None
    except Exception as error:
        print(f"warning: tracking: {spool.one_line(error)}; MLflow's runs are left out", file=sys.stderr)
        return None


def _get(client: Any, run_id: str) -> RunFacts | None:
    """The run; None if there is none, as after `mlflow gc`."""
    from mlflow.exceptions import MlflowException

    try:
        return _facts(client, client.get_run(run_id))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _facts(client: Any, run: Any) -> RunFacts:
    tags, info = run.data.tags, run.info
    outputs = {key.removeprefix(spool.OUTPUT): value for key, value in tags.items() if key.startswith(spool.OUTPUT)}
    if not outputs:  # of an older run only the model is known
        versions = client.search_model_versions(f"run_id = '{info.run_id}'")
        outputs = {one.tags["path"]: one.tags["dvc.md5"] for one in versions if "path" in one.tags}
    children: dict[str, str] = {}
    if "stage" not in tags:
        where = f"tags.`mlflow.parentRunId` = '{info.run_id}'"
        children = {one.data.tags["stage"]: one.info.run_id for one in client.search_runs([info.experiment_id], where)}
    return RunFacts(
        info.run_id,
        tags.get("stage", ""),
        info.status,
        info.start_time / 1000,
        None if info.end_time is None else (info.end_time - info.start_time) / 1000,
        tags.get("mlflow.user", ""),
        tags.get("mlflow.source.git.commit", ""),
        tags.get("git.dirty") == "true",
        outputs,
        children,
        dict(run.data.metrics),
    )
