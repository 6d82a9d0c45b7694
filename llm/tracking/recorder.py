"""The process that writes spools into MLflow: `python -m llm.tracking.recorder <root> <folder>`; see tracker.py."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from llm.common import files
from llm.common.errors import UserError
from llm.tracking import spool

ALIAS = "current"  # of the registered model that stands in models/ now
SEND_SECONDS = 2.0  # how often the metrics of a running stage are sent
IDLE_SECONDS = 15.0  # how long the recorder stays without work while its dvc process lives
KEEP_SPOOLS = 200  # what may pile up while no server is reached


def main() -> None:
    """Record what the spools hold, as the command says."""
    root, folder = (Path(argument) for argument in sys.argv[1:])
    try:
        record(root, folder)
    except UserError:  # the lock is held: another recorder is at work
        return
    except Exception as error:
        print(spool.without_password(spool.one_line(error)), file=sys.stderr, flush=True)
        sys.exit(1)


def record(root: Path, folder: Path) -> None:
    """Write the spools of `folder` into MLflow until there are none and the `dvc repro` they belong to has ended."""
    with files.lock(folder / "recorder.lock"):
        for old in sorted(folder.glob("*.jsonl"))[:-KEEP_SPOOLS]:
            _remove(old)
        store = _Store(root)
        runs: dict[Path, _Run] = {}
        idle_since = time.monotonic()
        while True:
            spools = sorted(folder.glob("*.jsonl"))
            for path in spools:
                try:
                    run = runs.get(path) or runs.setdefault(path, _Run(store, path))
                    if run.advance():
                        _remove(path)
                        del runs[path]
                except Exception as error:
                    print(spool.without_password(spool.one_line(error)), file=sys.stderr, flush=True)
                    store.probe()  # raises where it is the server; else it is this spool, and the others go on
                    path.replace(path.with_suffix(".bad"))
            if spools:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > IDLE_SECONDS or not store.dvc_lives():
                return
            time.sleep(0.05)


class _Store:
    """The MLflow server: its experiment, and the parent run of each `dvc repro`."""

    def __init__(self, root: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or spool.EXPERIMENT
        found = self.client.get_experiment_by_name(name)
        if found is None:
            scheme, _, database = os.environ["MLFLOW_TRACKING_URI"].partition(":///")
            beside = (root / database).with_name("mlartifacts")  # a copy of the project may write into our database
            location = beside.as_uri() if scheme == "sqlite" else None
            found = self.client.get_experiment(self.client.create_experiment(name, artifact_location=location))
        self.experiment: str = found.experiment_id
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(self.experiment)
        view = json.loads(found.tags.get(spool.VIEW_TAG, "{}"))
        self._columns: list[str] = view.get("selectedColumns", [])
        self._parents: dict[str, Any] = {}
        self._dvc: set[tuple[int, str]] = set()

    def probe(self) -> None:
        """Raise where the server takes no writes at all."""
        self.client.set_experiment_tag(self.experiment, "pipeline", spool.EXPERIMENT)

    def show(self, metrics: Iterable[str]) -> None:
        """Make the metrics columns of the table that `serve` names: MLflow's own table shows none."""
        new = [column for metric in metrics if (column := f"metrics.`{metric}`") not in self._columns]
        if new:
            self._columns += new
            view = {"selectedColumns": self._columns, "orderByKey": "attributes.start_time", "orderByAsc": False}
            view |= {"searchFilter": "", "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": []}
            self.client.set_experiment_tag(self.experiment, spool.VIEW_TAG, json.dumps(view))

    def dvc_lives(self) -> bool:
        """Whether a dvc process lives from which the spools came."""
        return any(spool.born(pid) == born for pid, born in self._dvc)

    def parent(self, header: Mapping[str, Any]) -> Any | None:
        """The run of the `dvc repro` that the stage belongs to; None for a stage run by hand."""
        dvc = header["dvc"]
        if dvc is None:
            return None
        self._dvc.add((dvc["pid"], dvc["born"]))
        if dvc["key"] not in self._parents:
            where = f"tags.`dvc.process` = '{dvc['key']}'"
            found = self.client.search_runs([self.experiment], where, max_results=1)
            self._parents[dvc["key"]] = found[0] if found else self._create_parent(header)
        return self._parents[dvc["key"]]

    def _create_parent(self, header: Mapping[str, Any]) -> Any:
        dvc, git = header["dvc"], header["git"]
        at = datetime.fromtimestamp(header["time"] / 1000).strftime("%m-%d %H:%M")
        version = f"{git['branch']}@{git['commit'][:7]}".removeprefix("(detached)@") if git else ""
        name = " ".join(filter(None, [header["exp"] or "repro", at, version]))  # the table shows some 18 letters of it
        tags = _tags(header) | {"dvc.process": dvc["key"], "mlflow.source.name": dvc["command"]}
        return self.client.create_run(self.experiment, header["time"], tags, name)


class _Run:
    """The run of one spool: reads its lines and writes them into MLflow."""

    def __init__(self, store: _Store, path: Path) -> None:
        self._store, self._client, self._path = store, store.client, path
        self._file = path.open("rb")
        self._metrics: list[Any] = []
        self._sent = time.monotonic()
        header = self._next() or {}
        self._stage: str = header["stage"]
        self._parent = store.parent(header)
        marker = path.with_suffix(".run")
        self._id = spool.read(marker)  # set: an earlier recorder was killed; writing all of it again changes nothing
        if not self._id:
            self._id = self._create(header)
            files.write_text(marker, self._id)

    def _create(self, header: Mapping[str, Any]) -> str:
        tags = _tags(header) | {"stage": self._stage, "mlflow.source.name": self._stage}
        if self._parent:
            self._client.update_run(self._parent.info.run_id, status="RUNNING")
            tags["mlflow.parentRunId"] = self._parent.info.run_id
            tags.pop("git.dirty", None)  # the parent tells it as of its start: dvc writes .gitignore files
        run: str = self._client.create_run(self._store.experiment, header["time"], tags, self._stage).info.run_id
        values = {_name(key): value for key, value in header["params"].items()}
        self._log_params(run, values)
        if self._parent:  # the union over the stages; MLflow refuses to change a value
            known = self._parent.data.params
            new = {key: value for key, value in values.items() if key not in known}
            self._log_params(self._parent.info.run_id, new)
            known.update(new)
        return run

    def _log_params(self, run: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, value) for key, value in values.items()]
        for at in range(0, len(entries), 100):
            self._client.log_batch(run, params=entries[at : at + 100])

    def advance(self) -> bool:
        """Write what came since the last call; return whether the run has ended."""
        dead = not spool.held(self._path)  # asked first: a stage that ends now has its last lines read below
        while record := self._next():
            if "close" in record:
                self._end("FAILED" if record["close"] else "FINISHED", record["close"], record["time"])
                return True
            self._take(record)
        if dead:
            self._end("KILLED", "the process ended without a word: killed, or out of memory", spool.now_ms())
        elif time.monotonic() - self._sent > SEND_SECONDS:
            self._send()
        return dead

    def _next(self) -> dict[str, Any] | None:
        line = self._file.readline()
        if not line.endswith(b"\n"):  # not there yet, or not whole
            self._file.seek(-len(line), os.SEEK_CUR)
            return None
        record: dict[str, Any] = json.loads(line)
        return record

    def _take(self, record: Mapping[str, Any]) -> None:
        match record:
            case {"metrics": values, "step": step, "time": at}:
                self._metrics += self._points(values, at, step)
            case {"headline": values, "time": at}:
                self._metrics += self._points(values, at, 0)
                if self._parent:
                    row = {f"{self._stage}.{key}": value for key, value in values.items()}
                    self._client.log_batch(self._parent.info.run_id, metrics=self._points(row, at, 0))
                    self._store.show(_name(key) for key in row)
            case {"artifact": name}:
                self._client.log_artifact(self._id, str(self._path.with_suffix(".files") / name))
            case {"table": name, "columns": columns, "data": data}:
                rows = {column: [row[at] for row in data] for at, column in enumerate(columns)}
                self._client.log_table(self._id, rows, f"{name}.json")
            case {"dataset": name, "path": path, "md5": md5}:
                self._log_dataset(name, path, md5)
            case {"model": name, "path": path, "md5": md5}:
                self._log_model(name, path, md5)

    def _points(self, values: Mapping[str, float], at: int, step: int) -> list[Any]:
        from mlflow.entities import Metric

        return [Metric(_name(key), value, at, step) for key, value in values.items()]

    def _send(self) -> None:
        for at in range(0, len(self._metrics), 1000):  # the most that the server takes in one call
            self._client.log_batch(self._id, metrics=self._metrics[at : at + 1000])
        self._metrics.clear()
        self._sent = time.monotonic()

    def _log_dataset(self, name: str, path: str, md5: str) -> None:
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.data.sources import LocalArtifactDatasetSource
        from mlflow.entities import Dataset, DatasetInput

        dataset = MetaDataset(LocalArtifactDatasetSource(path), name=name, digest=md5).to_dict()
        self._client.log_inputs(self._id, [DatasetInput(Dataset.from_dictionary(dataset))])

    def _log_model(self, name: str, path: str, md5: str) -> None:
        """An external model, linked to this run; the registry gets a version per md5, the alias names the newest."""
        import mlflow
        from mlflow.exceptions import MlflowException

        tags = {"dvc.md5": md5, "path": path}
        model = mlflow.create_external_model(name, self._id, tags, experiment_id=self._store.experiment)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        versions = self._client.search_model_versions(f"name = '{name}'")
        same = next((version for version in versions if version.tags.get("dvc.md5") == md5), None)
        if same is None:
            same = self._client.create_model_version(
                name, f"models:/{model.model_id}", self._id, tags, await_creation_for=0, model_id=model.model_id
            )
        self._client.set_registered_model_alias(name, ALIAS, same.version)

    def _end(self, status: str, error: str | None, at: int) -> None:
        self._send()
        if error:
            self._client.set_tag(self._id, "error", error)
        self._client.set_terminated(self._id, status, at)
        if self._parent:  # also its end so far: nothing tells which stage is the last
            parent, tags = self._parent.info.run_id, self._parent.data.tags
            if error:
                tags["error"] = f"{self._stage}: {error}"
                self._client.set_tag(parent, "error", tags["error"])
            self._client.set_terminated(parent, "FAILED" if "error" in tags else "FINISHED", at)


def _tags(header: Mapping[str, Any]) -> dict[str, str]:
    tags = {"mlflow.user": header["user"], "mlflow.source.type": "LOCAL"}
    if header["exp"]:
        tags["dvc.exp"] = header["exp"]
    if header["git"]:
        git = header["git"]
        tags |= {"mlflow.source.git.commit": git["commit"], "mlflow.source.git.branch": git["branch"]}
        tags["git.dirty"] = str(git["dirty"]).lower()
    return tags


def _name(key: str) -> str:
    """A key as MLflow takes it: `download@spam` becomes `download.spam`."""
    return re.sub(r"[^\w\-./: ]", "_", key.replace("@", "."))


def _remove(spool: Path) -> None:
    shutil.rmtree(spool.with_suffix(".files"), ignore_errors=True)
    spool.with_suffix(".run").unlink(missing_ok=True)
    spool.unlink()  # last: a stage waits for it


if __name__ == "__main__":
    main()
