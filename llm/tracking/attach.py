"""Adds a file to the MLflow run of a whole `dvc repro`."""

from __future__ import annotations

from pathlib import Path

from llm.tracking import spool
from llm.tracking.tracker import Recorder, warn


def last_recorded(root: Path) -> int:
    """When a recorder was last started, in nanoseconds; 0: never. It tells cheaply whether a stage was recorded."""
    log = spool.folder_of(root) / "recorder.log"
    return log.stat().st_mtime_ns if log.is_file() else 0


def attach(root: Path, key: str, file: Path) -> bool:
    """Log the file as an artifact of the run of the dvc process `key`; False if there is no such run.

    A failure is one warning line, never an error.
    """
    try:
        client, experiment = spool.connect(root)
        runs = client.search_runs([experiment], f"tags.`dvc.process` = '{key}'", max_results=1) if experiment else []
        for run in runs:
            client.log_artifact(run.info.run_id, str(file))
    except Exception as error:
        warn(f"{file.name} is not in MLflow: {spool.one_line(error)}")
        return False
    return bool(runs)


def deliver(root: Path) -> None:
    """Start to send what a server that was down did not take, if there is any. Nothing waits for it."""
    recorder = Recorder(root, None)
    left = [path for form in ("*.jsonl", "*.parent") for path in recorder.folder.glob(form)]
    if any(not spool.held(path) for path in left):
        recorder.problem()
