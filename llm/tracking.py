"""The record of runs in MLflow: one parent run per `dvc repro`, a nested run per stage that ran.

Importing MLflow and opening its database costs a process more than a second and a half, more than most stages take.
So a stage only appends JSON lines to a spool, `.work/tracking/<server>/*.jsonl`. A recorder, one process that the
first stage starts and that ends with its `dvc repro`, writes the lines into MLflow and removes the spool. `close`
waits for that: a stage that has ended is in MLflow. Training never meets MLflow's faults, and what a server that is
down did not take stays in the spool for the next recorder.
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO

import psutil

from llm import files, params
from llm.errors import DATA, RUNNING, SERVICE, USAGE, UserError

EXPERIMENT = "llm-from-scratch"
ALIAS = "current"  # of the registered model that stands in models/ now
VIEW = "headlines"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # where the UI keeps a view that somebody shared
ARTIFACT_MEGABYTES = 8  # larger files stay where they are: `reports/` and DVC are the record, MLflow is a view
SEND_SECONDS = 2.0  # how often the metrics of a running stage are sent
WAIT_SECONDS = 30.0  # how long a stage that ends waits for the recorder
IDLE_SECONDS = 15.0  # how long the recorder stays without work while its dvc process lives
KEEP_SPOOLS = 200  # what may pile up while no server is reached

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # halves the time and the memory that the UI takes
}
IMPATIENT = {  # MLflow's own defaults sleep four minutes over every call to a server that is down
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}


@dataclass(frozen=True)
class TrackingConfig:
    """Whether runs are recorded; decides no result."""

    enabled: bool
    required: bool  # a server that cannot be reached is an error at the start, not a warning


def start(stage: str, config: Any, root: Path, tracking: TrackingConfig) -> Tracker:
    """Open the run of `stage` with its parameters `config`, a dataclass or a mapping, nested or flat.

    Raises UserError (code SERVICE) where tracking is required and fails; else a failure is one warning line.
    """
    if not tracking.enabled:
        return NullTracker()
    try:
        return Tracker(stage, params.flat(config), _main_root(root), tracking.required)
    except Exception as error:
        if tracking.required:
            reason = error.what if isinstance(error, UserError) else _line(error)
            fix = "start the server, or set tracking.required: false"
            raise UserError("tracking", reason, fix, SERVICE) from None
        _warn(_line(error))
        return NullTracker()


class Tracker:
    """The run of one stage, to be had from `start`. Its methods never raise, and cost some microseconds."""

    def __init__(self, stage: str, config: Mapping[str, Any], root: Path, required: bool) -> None:
        dvc = _dvc()
        self._recorder = _Recorder(root, dvc["key"] if dvc else None, required)
        name = f"{time.time_ns()}-{os.getpid()}-{re.sub(r'[^A-Za-z0-9@._-]', '_', stage)}"
        self._path = self._recorder.folder / f"{name}.jsonl"
        self._copies = self._path.with_suffix(".files")
        self._looked = time.monotonic()
        new = self._path.with_suffix(".new")  # the recorder reads no spool before its header is in and it is locked
        self._file: TextIO | None = new.open("w", encoding="utf-8", buffering=1)  # by lines: a kill loses none
        fcntl.flock(self._file, fcntl.LOCK_EX)  # until this process ends: so the recorder knows that it lives
        header = {"stage": stage, "params": {key: str(value) for key, value in config.items()}, "time": _now()}
        self._write(header | {"dvc": dvc, "exp": os.environ.get("DVC_EXP_NAME"), "user": _user(), "git": _git()})
        new.rename(self._path)
        problem = self._recorder.wait(self._run_exists) if required else self._recorder.problem()
        if problem and required:
            self._path.unlink(missing_ok=True)
            raise RuntimeError(problem)
        self._recorder.required = False  # from here on training goes first

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a step: points of a curve."""
        self._write({"metrics": {key: float(value) for key, value in values.items()}, "step": step, "time": _now()})
        if self._file and time.monotonic() - self._looked > SEND_SECONDS:  # a long training says early what is wrong
            self._looked = time.monotonic()
            self._recorder.problem()

    def headline(self, values: Mapping[str, float]) -> None:
        """Record the numbers that the row of the whole `dvc repro` shows too, as `<stage>.<name>`, rounded."""
        self._write({"headline": {key: float(f"{value:.6g}") for key, value in values.items()}, "time": _now()})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Record what is neither parameter nor number: the device, the host, a remark."""
        self._write({"tags": {key: str(value) for key, value in values.items()}})

    def artifact(self, path: Path) -> None:
        """Record a small report file; a large one is left out with a note."""
        if self._file is None:
            return
        try:
            megabytes = path.stat().st_size / 2**20
            if megabytes > ARTIFACT_MEGABYTES:
                print(f"note: {path} ({megabytes:.0f} MB) is too large for MLflow and left out there", file=sys.stderr)
                return
            self._copies.mkdir(exist_ok=True)
            shutil.copyfile(path, self._copies / path.name)  # a copy: the file may change before it is sent
        except OSError as error:
            _warn(_line(error))
            return
        self._write({"artifact": path.name})

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Record a table, such as the answers and their scores; the UI shows it as one."""
        self._write({"table": name, "columns": list(columns), "data": [list(row) for row in rows]})

    def dataset(self, name: str, path: Path, md5: str) -> None:
        """Record a dataset that the stage read, by the md5 that DVC gives it."""
        self._write({"dataset": name, "path": Path(path).as_posix(), "md5": md5})

    def model(self, name: str, path: Path, md5: str) -> None:
        """Record the model that the stage made: DVC keeps its weights, MLflow the md5 that finds them."""
        self._write({"model": name, "path": Path(path).as_posix(), "md5": md5})

    def close(self, error: str | None) -> None:
        """End the run, FINISHED or with the error line FAILED, and wait until MLflow has all of it."""
        self._write({"close": error, "time": _now()})
        if self._file is None:
            return
        with suppress(OSError):
            self._file.close()
        self._file = None
        self._recorder.wait(lambda: not self._path.exists())
        if self._path.with_suffix(".bad").exists():
            self._recorder.give_up(self._recorder.last_words())

    def _run_exists(self) -> bool:
        return self._path.with_suffix(".run").exists()

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(record, default=str) + "\n")
        except (OSError, ValueError) as error:
            self._file = None  # the recorder takes it for a stage that was killed
            _warn(_line(error))


class NullTracker(Tracker):
    """Records nothing: tracking is off, or this is not the main rank."""

    def __init__(self) -> None:
        self._file = None


class _Recorder:
    """The recorder of one folder of spools, as a stage sees it: started when needed, asked, waited for."""

    def __init__(self, root: Path, dvc: str | None, required: bool = False) -> None:
        self._root, self._dvc, self.required = root, dvc, required
        self.uri = tracking_uri(root)
        self.folder = root / ".work" / "tracking" / hashlib.sha256(self.uri.encode()).hexdigest()[:8]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        # one warning per `dvc repro` is enough: its later stages fill their spools and leave it at that
        self._given_up = dvc is not None and _text(self.folder / "given_up") == dvc and not required

    def problem(self) -> str | None:
        """Start the recorder where none runs; return why it failed, said once."""
        if self._given_up:
            return None
        code = self._process.poll() if self._process else None
        if code:
            return self.give_up(self.last_words())
        if (self._process is None or code == 0) and not _held(self.folder / "recorder.lock"):
            try:
                self._start()
            except OSError as error:
                return self.give_up(_line(error))
        return None

    def wait(self, done: Callable[[], bool]) -> str | None:
        """Wait until `done`; return why it did not come to that, said once."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._given_up and not done():
            problem = self.problem()
            if problem:
                return problem
            if time.monotonic() > deadline:
                return self.give_up(f"{_shown(self.uri)} did not answer within {WAIT_SECONDS:.0f} s")
            time.sleep(0.01)
        return None

    def give_up(self, problem: str) -> str:
        """Warn, and neither look nor wait from here on; where tracking is required the caller raises."""
        self._given_up = True
        if not self.required:
            _warn(problem)
            with suppress(OSError):
                (self.folder / "given_up").write_text(self._dvc or "", encoding="utf-8")
        return problem

    def last_words(self) -> str:
        """The last line that the recorder printed."""
        lines = _text(self.folder / "recorder.log").strip().splitlines()
        return lines[-1] if lines else "the recorder ended without a word"

    def _start(self) -> None:
        environment = dict(os.environ) | QUIET | {"MLFLOW_TRACKING_URI": self.uri}
        environment = IMPATIENT | environment  # a user's own patience goes first
        environment.pop("MLFLOW_RUN_ID", None)  # it would override the parent
        # this very `llm`, not the one in `root`: a queued experiment runs in a copy
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        command = [sys.executable, "-P", "-m", "llm.tracking", str(self._root), str(self.folder)]
        with (self.folder / "recorder.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C ends the stage; the recorder notes that it did
            )


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
                    print(_shown(_line(error)), file=sys.stderr, flush=True)
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
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self.client.get_experiment_by_name(name)
        if found is None:
            local = os.environ["MLFLOW_TRACKING_URI"].startswith("sqlite:")
            location = (root / "mlartifacts").as_uri() if local else None
            found = self.client.get_experiment(self.client.create_experiment(name, artifact_location=location))
        self.experiment: str = found.experiment_id
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(self.experiment)
        view = json.loads(found.tags.get(VIEW_TAG, "{}"))
        self._columns: list[str] = view.get("selectedColumns", [])
        self._parents: dict[str, Any] = {}
        self._dvc: set[tuple[int, str]] = set()

    def probe(self) -> None:
        """Raise where the server takes no writes at all."""
        self.client.set_experiment_tag(self.experiment, "pipeline", EXPERIMENT)

    def show(self, metrics: Iterable[str]) -> None:
        """Make the metrics columns of the table that `serve` names: MLflow's own table shows none."""
        new = [column for metric in metrics if (column := f"metrics.`{metric}`") not in self._columns]
        if new:
            self._columns += new
            view = {"selectedColumns": self._columns, "orderByKey": "attributes.start_time", "orderByAsc": False}
            view |= {"searchFilter": "", "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": []}
            self.client.set_experiment_tag(self.experiment, VIEW_TAG, json.dumps(view))

    def dvc_lives(self) -> bool:
        """Whether a dvc process lives from which the spools came."""
        return any(_born(pid) == born for pid, born in self._dvc)

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
        header = self._line() or {}
        self._stage: str = header["stage"]
        self._parent = store.parent(header)
        marker = path.with_suffix(".run")
        self._id = _text(marker)  # set: an earlier recorder was killed; writing all of it again changes nothing
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
        dead = not _held(self._path)  # asked first: a stage that ends now has its last lines read below
        while record := self._line():
            if "close" in record:
                self._end("FAILED" if record["close"] else "FINISHED", record["close"], record["time"])
                return True
            self._take(record)
        if dead:
            self._end("KILLED", "the process ended without a word: killed, or out of memory", _now())
        elif time.monotonic() - self._sent > SEND_SECONDS:
            self._send()
        return dead

    def _line(self) -> dict[str, Any] | None:
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
            case {"tags": values}:
                for key, value in values.items():
                    self._client.set_tag(self._id, _name(key), value)
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


def serve(root: Path, port: int = 5000) -> NoReturn:
    """Become MLflow's UI on 127.0.0.1.

    Raises UserError where the port is taken, the database is none, or the runs are on another server.
    """
    root = _main_root(root)
    uri = tracking_uri(root)
    if not uri.startswith("sqlite:"):
        raise UserError("MLFLOW_TRACKING_URI", f"the runs are at {_shown(uri)}", "open that in the browser", USAGE)
    if not 0 < port < 2**16:
        raise UserError(f"port {port}", "is no port", "`PORT=5001 make ui`", USAGE)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port}", _line(error), f"`PORT={port + 1} make ui`", RUNNING) from None
    database = Path(uri.removeprefix("sqlite:///"))
    page = _page(database, port)
    recorder = _Recorder(root, None)
    # what ended stages could not deliver; a stage that runs now has a recorder
    recorder.wait(lambda: all(_held(spool) for spool in recorder.folder.glob("*.jsonl")))
    print(f"MLflow starts on {page} (Ctrl-C ends it)", flush=True)
    command = ui_command(root, port)
    os.execve(command[0], command, dict(os.environ) | QUIET)


def ui_command(root: Path, port: int) -> list[str]:
    """The command that serves the runs of the project in `root`; it wants the variables of `QUIET`."""
    hosts = f"127.0.0.1:{port},localhost:{port}"  # MLflow's own list lets names such as 10.evil.com in
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", tracking_uri(root)]
    command += ["--artifacts-destination", (root / "mlartifacts").as_uri(), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]  # no line per request
    return [*command, "--host", "127.0.0.1", "--port", str(port), "--allowed-hosts", hosts]


def _page(database: Path, port: int) -> str:
    """The address of the table of runs with its headline columns, once there are runs."""
    address = f"http://127.0.0.1:{port}/"
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            query = "SELECT experiment_id FROM experiments WHERE name = ?"
            (experiment,) = connection.execute(query, (name,)).fetchone()
    except (sqlite3.OperationalError, TypeError):  # no database yet, or no runs in it
        return address
    except sqlite3.DatabaseError as error:
        raise UserError(str(database), _line(error), "move it away: the next run makes a new one", DATA) from None
    return f"{address}#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def tracking_uri(root: Path) -> str:
    """Where the runs go: MLFLOW_TRACKING_URI, else a database in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def _main_root(root: Path) -> Path:
    """The repository itself: DVC runs a queued experiment in a copy that it deletes afterwards."""
    return Path(os.environ.get("DVC_ROOT") or root).resolve()


def _dvc() -> dict[str, Any] | None:
    """The nearest ancestor that is dvc, by its pid and start time; None for a stage run by hand."""
    for process in psutil.Process().parents():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if words and Path(words[0]).name.lower().startswith("python"):  # `python bin/dvc repro`, `python -m dvc repro`
            words = words[2:] if words[1:2] == ["-m"] else words[1:]
        if words and Path(words[0]).name == "dvc":
            born = _born(process.pid)
            key = f"{socket.gethostname()}:{process.pid}:{born}"
            command = " ".join(["dvc", *_subcommand(words[1:])])
            return {"key": key, "pid": process.pid, "born": born, "command": command}
    return None


def _subcommand(words: Sequence[str]) -> list[str]:
    """`repro pretrain`, `exp run`: what follows the first option may be anyone's business."""
    while words and words[0].startswith("-"):
        words = words[1:]
    end = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    return list(words[:end])


def _git() -> dict[str, Any] | None:
    """Commit, branch, and whether sources differ from it: the outputs of the very run do not count."""
    command = ["git", "status", "--porcelain=v2", "--branch", "--", ".", ":!dvc.lock", ":!reports"]
    environment = dict(os.environ) | {"GIT_OPTIONAL_LOCKS": "0"}  # dvc may hold git's lock, or want it
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    facts = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    dirty = any(not line.startswith("#") for line in lines)
    return {"commit": facts.get("branch.oid", ""), "branch": facts.get("branch.head", ""), "dirty": dirty}


def _tags(header: Mapping[str, Any]) -> dict[str, str]:
    tags = {"mlflow.user": header["user"], "mlflow.source.type": "LOCAL"}
    if header["exp"]:
        tags["dvc.exp"] = header["exp"]
    if header["git"]:
        git = header["git"]
        tags |= {"mlflow.source.git.commit": git["commit"], "mlflow.source.git.branch": git["branch"]}
        tags["git.dirty"] = str(git["dirty"]).lower()
    return tags


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return str(os.getuid())


def _name(key: str) -> str:
    """A key as MLflow takes it: `download@spam` becomes `download.spam`."""
    return re.sub(r"[^\w\-./: ]", "_", key.replace("@", "."))


def _held(path: Path) -> bool:
    """Whether a living process holds the lock on the file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _born(pid: int) -> str:
    """When the process started, told alike at every call: Linux's wall-clock time moves with the clock."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return f"{psutil.Process(pid).create_time():.2f}" if psutil.pid_exists(pid) else ""


def _remove(spool: Path) -> None:
    shutil.rmtree(spool.with_suffix(".files"), ignore_errors=True)
    spool.with_suffix(".run").unlink(missing_ok=True)
    spool.unlink()  # last: a stage waits for it


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _now() -> int:
    return time.time_ns() // 10**6


def _line(error: Exception) -> str:
    """An exception as one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def _shown(text: str) -> str:
    """A text without the password of a URL in it."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


def _warn(reason: str) -> None:
    print(f"warning: tracking: {_shown(reason)}; the run goes on, MLflow does not show all of it", file=sys.stderr)


def main() -> None:
    """The recorder: `python -m llm.tracking <root> <folder>`."""
    root, folder = (Path(argument) for argument in sys.argv[1:])
    try:
        record(root, folder)
    except UserError:  # the lock is held: another recorder is at work
        return
    except Exception as error:
        print(_shown(_line(error)), file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
