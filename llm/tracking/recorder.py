"""The process that writes spools into MLflow: `python -m llm.tracking.recorder <root> <folder>`; see tracker.py."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm.common import dvc_yaml, files
from llm.common.errors import RUNNING, UserError
from llm.tracking import exhibits, models, places, spool, traces, usage
from llm.tracking.entities import Data, as_params, log_data, log_params, log_points, metric_name, points
from llm.tracking.parent import Parent, in_project, tags

SEND_SECONDS = 2.0  # how often the metrics of a running stage are sent
KEEP_SPOOLS = 200  # what may pile up while no server is reached


def main() -> None:
    """Record what the spools hold, as the command says."""
    root, folder = (Path(argument) for argument in sys.argv[1:])
    try:
        record(root, folder)
    except Exception as error:
        if isinstance(error, UserError) and error.code == RUNNING:  # another recorder is at work
            return
        print(spool.one_line(error), file=sys.stderr, flush=True)
        sys.exit(1)


def record(root: Path, folder: Path) -> None:
    """Write the spools of `folder` into MLflow until there are none and the `dvc repro` they belong to has ended."""
    with files.lock(folder / "recorder.lock"):
        for old in sorted(folder.glob("*.jsonl"))[:-KEEP_SPOOLS]:
            _remove(old)
        store = _Store(root, folder)
        machine = usage.Usage()
        runs: dict[Path, _Run] = {}
        while True:
            spools = sorted(folder.glob("*.jsonl"))
            for path in spools:
                try:
                    run = runs.get(path) or runs.setdefault(path, _Run(store, path))
                    if run.advance():
                        _remove(path)
                        del runs[path]
                except Exception as error:
                    print(spool.one_line(error), file=sys.stderr, flush=True)
                    store.probe()  # raises where it is the server; else it is this spool, and the others go on
                    path.replace(path.with_suffix(".bad"))
                    runs.pop(path, None)  # or its parent would count as busy
            if used := machine.sample():
                for run in runs.values():
                    run.use(used)
            store.finish({run.parent for run in runs.values()})
            if not spools and not store.dvc_lives():  # DVC may take minutes to keep large outputs
                store.finish()
                return
            time.sleep(0.05)


def _place(column: str, order: Sequence[str]) -> int:
    """The number of the stage whose metric it is; the columns of one stage stay in the order they came in."""
    stage = column.removeprefix("metrics.`").partition(".")[0].partition("@")[0]
    return order.index(stage) if stage in order else len(order)


class _Store:
    """The MLflow server: its experiment, and the parent run of each `dvc repro`."""

    def __init__(self, root: Path, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        spool.check_store(uri := os.environ["MLFLOW_TRACKING_URI"])
        places.follow(root, uri)
        self.client = MlflowClient()
        name = spool.experiment_name()
        found = self.client.get_experiment_by_name(name)
        if found is None:
            beside = places.beside(root, uri)  # a copy of the project may write into our database
            location = beside.as_uri() if beside else None
            found = self.client.get_experiment(self.client.create_experiment(name, artifact_location=location))
        self.experiment: str = found.experiment_id
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(self.experiment)
        view = json.loads(found.tags.get(spool.VIEW_TAG, "{}"))
        self._columns: list[str] = view.get("selectedColumns", [])
        self._parents: dict[str, Parent] = {}
        self._root, self._folder = root, folder
        for left in folder.glob("*.parent"):  # an earlier recorder was killed before it completed them
            try:
                self.parent(files.read_json(left))
            except UserError:
                left.unlink()

    def probe(self) -> None:
        """Raise where the server takes no writes at all."""
        self.client.set_experiment_tag(self.experiment, "pipeline", spool.EXPERIMENT)

    def show(self, metrics: Iterable[str]) -> None:
        """Make the metrics columns of the table that `serve` names: MLflow's own table shows none."""
        new = [column for metric in metrics if (column := f"metrics.`{metric}`") not in self._columns]
        if new:
            order: list[str] = []
            with suppress(UserError):  # dvc.yaml cannot be read
                order = dvc_yaml.stage_names(self._root / dvc_yaml.PIPELINE)
            self._columns = sorted([*self._columns, *new], key=lambda column: _place(column, order))
            view = {"selectedColumns": self._columns, "orderByKey": "attributes.start_time", "orderByAsc": False}
            view |= {"searchFilter": "", "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": []}
            self.client.set_experiment_tag(self.experiment, spool.VIEW_TAG, json.dumps(view))

    def dvc_lives(self) -> bool:
        """Whether a dvc process lives from which the spools came."""
        return any(parent.lives() for parent in self._parents.values())

    def parent(self, header: Mapping[str, Any]) -> Parent | None:
        """The run of the `dvc repro` that the stage belongs to; None for a stage run by hand."""
        dvc = header["dvc"]
        if dvc is None:
            return None
        if dvc["key"] not in self._parents:
            files.write_json(self._marker(dvc["key"]), header)
            self._parents[dvc["key"]] = Parent(self.client, self.experiment, header)
        return self._parents[dvc["key"]]

    def finish(self, busy: Collection[Parent | None] = ()) -> None:
        """Complete the parent runs that are not `busy` and whose dvc process has ended.

        At once, before the next `dvc repro` changes what they tell.
        """
        for key, parent in list(self._parents.items()):
            if parent not in busy and not parent.lives():
                marker = self._marker(key)
                try:
                    parent.finish()
                    marker.unlink(missing_ok=True)
                except Exception as error:
                    print(spool.one_line(error), file=sys.stderr, flush=True)
                    self.probe()  # raises where it is the server; else it is this run, and the others go on
                    marker.replace(marker.with_suffix(".bad"))
                del self._parents[key]

    def _marker(self, key: str) -> Path:
        """The file that tells of a parent run to complete, with the header of its first stage."""
        return self._folder / f"{key}.parent"


class _Run:
    """The run of one spool: reads its lines and writes them into MLflow."""

    def __init__(self, store: _Store, path: Path) -> None:
        self._store, self._client, self._path = store, store.client, path
        self._file = path.open("rb")
        self._metrics: list[Any] = []
        self._sent = time.monotonic()
        header = self._next() or {}
        self._stage: str = header["stage"]
        self._started: int = header["time"]
        self._params = as_params(header["params"])
        self._in_project = in_project(header)
        self._figures: dict[str, float] = {}  # of the reports
        self._read: list[Data] = []
        self._models: list[str] = []  # ids
        self.parent = store.parent(header)
        marker = path.with_suffix(".run")
        self._id = spool.read(marker)  # set: an earlier recorder was killed; writing all of it again changes nothing
        self._traced = set(traces.of_run(store.experiment, self._id)) if self._id else set()
        if not self._id:
            self._id = self._create(header)
            files.write_text(marker, self._id)
        if self.parent:
            self.parent.ran[self._stage] = self._id

    def _create(self, header: Mapping[str, Any]) -> str:
        own = tags(header) | {"stage": self._stage, "mlflow.source.name": self._stage}
        if self.parent:
            self._client.update_run(self.parent.id, status="RUNNING")
            own["mlflow.parentRunId"] = self.parent.id
            own.pop("git.dirty", None)  # the parent tells it as of its start: dvc writes .gitignore files
        run: str = self._client.create_run(self._store.experiment, header["time"], own, self._stage).info.run_id
        log_params(self._client, run, self._params)
        return run

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

    def use(self, values: Mapping[str, float]) -> None:
        """Add what the machine uses, and what the stage holds; not to a stage that may end soon."""
        now = spool.now_ms()
        seconds = (now - self._started) / 1000
        if seconds > usage.AFTER_SECONDS and self._path.exists():
            pid = int(self._path.name.split("-")[1])
            step = int(seconds / usage.EVERY_SECONDS)
            self._metrics += points({**values, **usage.memory_of(pid)}, now, step)

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
                self._metrics += points(values, at, step)
            case {"headline": values, "time": at}:
                self._metrics += points(values, at)
                if self.parent:
                    self.parent.log_figures(self._stage, values)
                    self._store.show(metric_name(f"{self._stage}.{key}") for key in values)
            case {"figures": values}:
                self._figures |= values
                if self.parent:
                    self.parent.log_figures(self._stage, values)
            case {"artifact": name}:
                self._client.log_artifact(self._id, str(self._path.with_suffix(".files") / name))
            case {"table": name, "columns": columns, "data": data}:
                rows = {column: [row[at] for row in data] for at, column in enumerate(columns)}
                exhibits.table(self._client, self._id, name, rows)
            case {"trace": answer}:
                if answer["index"] not in self._traced:  # by an earlier recorder
                    traces.log(self._store.experiment, self._id, traces.Answer(**answer))
            case {"dataset": path, "md5": md5}:
                self._read.append(Data(path, md5))
                log_data(self._client, [self._id, *([self.parent.id] if self.parent else [])], self._read[-1])
            case {"output": path, "md5": md5}:
                self._client.set_tag(self._id, metric_name(f"{spool.OUTPUT}{path}"), md5)
            case {"model": path, "md5": md5}:
                self._log_model(path, md5)

    def _send(self) -> None:
        log_points(self._client, self._id, self._metrics)
        self._metrics.clear()
        self._sent = time.monotonic()

    def _log_model(self, path: str, md5: str) -> None:
        from mlflow.entities import LoggedModelOutput

        about = {"dvc.md5": md5, "path": path}
        name, experiment = Path(path).name, self._store.experiment
        model = models.log(self._client, self._id, experiment, name, about, self._params, self._in_project)
        self._models.append(model)
        if self.parent:
            self._client.log_outputs(self.parent.id, [LoggedModelOutput(model, step=0)])

    def _measure(self) -> None:
        """Log the figures of the stage as those of the model that it made, with the data it read."""
        data = self._read[-1] if self._read else None
        for model in self._models:
            if self.parent:
                self.parent.log_figures(self._stage, self._figures, model, data)
            else:
                log_points(self._client, self._id, points(self._figures, self._started, 0, model, data))

    def _end(self, status: str, error: str | None, at: int) -> None:
        self._send()
        self._measure()
        if error:
            self._client.set_tag(self._id, "error", error)
        self._client.set_terminated(self._id, status, at)
        if self.parent:  # also its end so far: nothing tells which stage is the last
            if error:
                self.parent.failed = True
                self._client.set_tag(self.parent.id, "error", f"{self._stage}: {error}")
            self._client.set_terminated(self.parent.id, "FAILED" if self.parent.failed else "FINISHED", at)


def _remove(spool: Path) -> None:
    shutil.rmtree(spool.with_suffix(".files"), ignore_errors=True)
    spool.with_suffix(".run").unlink(missing_ok=True)
    spool.unlink()  # last: a stage waits for it


if __name__ == "__main__":
    main()
