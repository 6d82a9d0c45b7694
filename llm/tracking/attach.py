"""Adds a file to the MLflow run of a whole `dvc repro`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from llm.tracking import spool
from llm.tracking.tracker import IMPATIENT, warn


def key_of(pid: int) -> str:
    """The name of a dvc process that lives, by which its run is found."""
    return f"{socket.gethostname()}:{pid}:{spool.born(pid)}"


def last_recorded(root: Path) -> int:
    """When a recorder was last started, in nanoseconds; 0: never. It tells cheaply whether a stage was recorded."""
    log = spool.folder_of(root) / "recorder.log"
    return log.stat().st_mtime_ns if log.is_file() else 0


def attach(root: Path, key: str, file: Path) -> bool:
    """Log the file as an artifact of the run of the dvc process `key`; False if there is no such run.

    A failure is one warning line, never an error.
    """
    for name, value in (spool.QUIET | IMPATIENT).items():
        os.environ.setdefault(name, value)
    try:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(spool.tracking_uri(root))
        experiment = client.get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME") or spool.EXPERIMENT)
        if experiment is None:
            return False
        runs = client.search_runs([experiment.experiment_id], f"tags.`dvc.process` = '{key}'", max_results=1)
        if not runs:
            return False
        client.log_artifact(runs[0].info.run_id, str(file))
    except Exception as error:
        warn(f"{file.name} is not in MLflow: {spool.one_line(error)}")
        return False
    return True
