"""The record of runs in MLflow: one parent run per `dvc repro`, a nested run per stage that ran.

Importing MLflow and opening its database costs a process more than a second and a half, more than most stages take.
So a stage only appends JSON lines to a spool, `.work/tracking/<server>/*.jsonl`. `recorder.py`, one process that the
first stage starts and that ends with its `dvc repro`, writes the lines into MLflow and removes the spool. `close`
waits for that: a stage that has ended is in MLflow. Training never meets MLflow's faults, and what a server that is
down did not take stays in the spool for the next recorder.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any, TextIO

import psutil

from llm.common import git_here, params
from llm.common.errors import SERVICE, UserError
from llm.tracking import spool
from llm.tracking.config import TrackingConfig

ARTIFACT_MEGABYTES = 8  # larger files stay where they are: `reports/` and DVC are the record, MLflow is a view
WAIT_SECONDS = 30.0  # how long a stage that ends waits for the recorder
LOOK_SECONDS = 2.0  # how often a stage that trains looks whether the recorder lives
_CURRENT: ContextVar[Tracker | None] = ContextVar("tracker", default=None)


def start_tracking(stage: str, config: Any, root: Path, tracking: TrackingConfig) -> Tracker:
    """Open the run of `stage` with its parameters `config`, a dataclass or a mapping, nested or flat.

    Raises UserError (code SERVICE) where tracking is required and fails; else a failure is one warning line.
    """
    if not tracking.enabled:
        return NullTracker()
    try:
        root = spool.main_root(root)
        if tracking.required:  # without it, the recorder says so, once for each `dvc repro`
            spool.check_store(spool.tracking_uri(root))
        tracker = Tracker(stage, params.flat(config), root, tracking.required, tracking.traces)
    except Exception as error:
        if tracking.required:
            raise error if isinstance(error, UserError) else _not_reached(spool.one_line(error)) from None
        warn(spool.one_line(error))
        return NullTracker()
    _CURRENT.set(tracker)
    return tracker


def current() -> Tracker | None:
    """The tracker of the stage that runs in this context; None if it is not tracked."""
    return _CURRENT.get()


class Tracker:
    """The run of one stage, to be had from `start_tracking`. Its methods never raise, and cost some microseconds."""

    def __init__(self, stage: str, config: Mapping[str, Any], root: Path, required: bool, traces: int = 0) -> None:
        dvc = _dvc()
        self._traces = traces
        self._recorder = Recorder(root, dvc["key"] if dvc else None, required)
        name = f"{time.time_ns()}-{os.getpid()}-{re.sub(r'[^A-Za-z0-9@._-]', '_', stage)}"
        self._path = self._recorder.folder / f"{name}.jsonl"
        self._copies = self._path.with_suffix(".files")
        self._looked = time.monotonic()
        new = self._path.with_suffix(".new")  # the recorder reads no spool before its header is in and it is locked
        self._file: TextIO | None = new.open("w", encoding="utf-8", buffering=1)  # by lines: a kill loses none
        fcntl.flock(self._file, fcntl.LOCK_EX)  # until this process ends: so the recorder knows that it lives
        header: dict[str, Any] = {"stage": stage, "params": {key: str(value) for key, value in config.items()}}
        header |= {"dvc": dvc, "exp": os.environ.get("DVC_EXP_NAME"), "ref": _ref()}
        header |= {"folder": os.getcwd(), "root": str(root)}
        self._write(header | {"user": _user(), "git": _git()})
        new.rename(self._path)
        problem = self._recorder.wait(self._path.with_suffix(".run").exists) if required else self._recorder.problem()
        if problem and required:
            self._path.unlink(missing_ok=True)
            raise _not_reached(problem)
        self._recorder.required = False  # from here on training goes first

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a step: points of a curve."""
        self._write({"metrics": {key: float(value) for key, value in values.items()}, "step": step})
        if self._file and time.monotonic() - self._looked > LOOK_SECONDS:  # a long training says early what is wrong
            self._looked = time.monotonic()
            self._recorder.problem()

    def headline(self, values: Mapping[str, float]) -> None:
        """Record the numbers that the row of the whole `dvc repro` shows too, as `<stage>.<name>`, rounded."""
        self._write({"headline": {key: float(f"{value:.6g}") for key, value in values.items()}})

    def figures(self, values: Mapping[str, float]) -> None:
        """Record all numbers of the stage's report for the run of the whole `dvc repro`."""
        self._write({"figures": dict(values)})

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
            warn(spool.one_line(error))
            return
        self._write({"artifact": path.name})

    def table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Record a table, such as the answers and their scores; the UI shows it as one."""
        self._write({"table": name, "columns": list(columns), "data": [list(row) for row in rows]})

    def trace(self, answer: Mapping[str, Any]) -> None:
        """Record a `traces.Answer`, if it is among the first ones of its report."""
        if answer["index"] < self._traces:
            self._write({"trace": answer})

    def dataset(self, path: Path, md5: str) -> None:
        """Record a dataset that the stage read, by the md5 that DVC gives it."""
        self._write({"dataset": path.as_posix(), "md5": md5})

    def output(self, path: Path, md5: str) -> None:
        """Record an output of the stage by the md5 that DVC gives it; `llm trace` finds the run by it."""
        self._write({"output": path.as_posix(), "md5": md5})

    def model(self, path: Path, md5: str) -> None:
        """Record the model that the stage made: DVC keeps its weights, MLflow the md5 that finds them."""
        self._write({"model": path.as_posix(), "md5": md5})

    def close(self, error: str | None, wait: bool = True) -> None:
        """End the run, FINISHED or with the error line FAILED, and `wait` until MLflow has all of it."""
        self._write({"close": error})
        _CURRENT.set(None)
        if self._file is None:
            return
        with suppress(OSError):
            self._file.close()
        self._file = None
        if not wait:
            return
        self._recorder.wait(lambda: not self._path.exists())
        if self._path.with_suffix(".bad").exists():
            self._recorder.give_up(self._recorder.last_words())

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({**record, "time": spool.now_ms()}, default=str) + "\n")
        except (OSError, ValueError) as error:
            self._file = None  # the recorder takes it for a stage that was killed
            warn(spool.one_line(error))


class NullTracker(Tracker):
    """Records nothing: tracking is off, or failed at the start."""

    def __init__(self) -> None:
        self._file, self._traces = None, 0


class Recorder:
    """The recorder of one folder of spools, as a stage sees it: started when needed, asked, waited for."""

    def __init__(self, root: Path, dvc: str | None, required: bool = False) -> None:
        self._root, self._dvc, self.required = root, dvc, required
        self.uri = spool.tracking_uri(root)
        self.folder = spool.folder_of(root)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None
        # one warning per `dvc repro` is enough: its later stages fill their spools and leave it at that
        self._given_up = dvc is not None and spool.read(self.folder / "given_up") == dvc and not required

    def problem(self) -> str | None:
        """Start the recorder where none runs; return why it failed, said once."""
        if self._given_up:
            return None
        code = self._process.poll() if self._process else None
        if code:
            return self.give_up(self.last_words())
        if (self._process is None or code == 0) and not spool.held(self.folder / "recorder.lock"):
            try:
                self._start()
            except OSError as error:
                return self.give_up(spool.one_line(error))
        return None

    def wait(self, done: Callable[[], bool]) -> str | None:
        """Wait until `done`; return why it did not come to that, said once."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._given_up and not done():
            problem = self.problem()
            if problem:
                return problem
            if time.monotonic() > deadline:
                return self.give_up(
                    f"{spool.without_password(self.uri)} did not take everything within {WAIT_SECONDS:.0f} s"
                )
            time.sleep(0.01)
        return None

    def give_up(self, problem: str) -> str:
        """Warn, and neither look nor wait from here on; where tracking is required the caller raises."""
        self._given_up = True
        if not self.required:
            warn(problem)
            with suppress(OSError):
                (self.folder / "given_up").write_text(self._dvc or "", encoding="utf-8")
        return problem

    def last_words(self) -> str:
        lines = spool.read(self.folder / "recorder.log").strip().splitlines()
        return lines[-1] if lines else "the recorder ended without a word"

    def _start(self) -> None:
        environment = dict(os.environ) | spool.QUIET | {"MLFLOW_TRACKING_URI": self.uri}
        environment = spool.IMPATIENT | environment  # a user's own patience goes first
        environment.pop("MLFLOW_RUN_ID", None)  # it would override the parent
        # this very `llm`, not the one in `root`: a queued experiment runs in a copy
        environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        command = [sys.executable, "-P", "-m", "llm.tracking.recorder", str(self._root), str(self.folder)]
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
            command = " ".join(["dvc", *_subcommand(words[1:])])
            pid = process.pid
            return {"key": spool.key_of(pid), "pid": pid, "born": spool.born(pid), "command": command}
    return None


def _subcommand(words: Sequence[str]) -> list[str]:
    """`repro pretrain`, `exp run`: what follows the first option may be anyone's business."""
    named = dropwhile(lambda word: word.startswith("-"), words)
    return list(takewhile(lambda word: not word.startswith("-"), named))


def _ref() -> str | None:
    """Where DVC commits the experiment that this stage belongs to."""
    base, name = os.environ.get("DVC_EXP_BASELINE_REV"), os.environ.get("DVC_EXP_NAME")
    return f"refs/exps/{base[:2]}/{base[2:]}/{name}" if base and name else None


def _git() -> dict[str, Any] | None:
    """Commit, branch, and whether sources differ from it: the outputs of the very run do not count."""
    told = git_here.text("status", "--porcelain=v2", "--branch", "--", *git_here.SOURCES, seconds=5)
    if told is None:
        return None
    lines = told.splitlines()
    facts = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    dirty = any(not line.startswith("#") for line in lines)
    return {"commit": facts.get("branch.oid", ""), "branch": facts.get("branch.head", ""), "dirty": dirty}


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return str(os.getuid())


def _not_reached(why: str) -> UserError:
    return UserError("tracking", why, "start the server, or set tracking.required: false", SERVICE)


def warn(reason: str) -> None:
    """Print that MLflow lacks something, and why, as one line on stderr."""
    what = f"warning: tracking: {spool.without_password(reason)}"
    print(f"{what}; the run goes on, MLflow does not show all of it", file=sys.stderr)
