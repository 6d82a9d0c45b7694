"""What the writer and the reader of tracking spools, and the UI, agree on: where they lie, and who holds them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import socket
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil

from llm.common.errors import USAGE, UserError

EXPERIMENT = "llm-from-scratch"
VIEW = "headlines"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"  # where the UI keeps a view that somebody shared
OUTPUT = "dvc.out."  # a tag of a run: this and the path of an output, with the md5 that DVC knows it by

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",  # the recorder writes it, and then adds to it
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # halves the time and the memory that the UI takes
}

IMPATIENT = {  # MLflow's own defaults sleep four minutes over every call to a server that is down
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}


def tracking_uri(root: Path) -> str:
    """Where the runs go: MLFLOW_TRACKING_URI, else a database in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"


def check_store(uri: str) -> None:
    """Raise UserError for runs in a folder: MLflow takes them only with MLFLOW_ALLOW_FILE_STORE."""
    folder = uri.startswith("file:") or not (":" in uri or uri.startswith("databricks"))
    if folder and os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        what = f"{uri!r} is a folder, and MLflow no longer writes runs into folders"
        fix = "unset it, or name a database (sqlite:////PATH/mlflow.db); `mlflow migrate-filestore` moves old runs"
        raise UserError("MLFLOW_TRACKING_URI", what, fix, USAGE)


def experiment_name() -> str:
    """The experiment that the runs belong to."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


def connect(root: Path) -> tuple[Any, str | None]:
    """A client of MLflow, and the id of the experiment; None if no run was recorded. Raises what MLflow raises."""
    for name, value in (QUIET | IMPATIENT).items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    check_store(uri := tracking_uri(root))
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(experiment_name())
    return client, experiment and str(experiment.experiment_id)


def main_root(root: Path) -> Path:
    """The repository itself: DVC runs a queued experiment in a copy that it deletes afterwards."""
    return Path(os.environ.get("DVC_ROOT") or root).resolve()


def folder_of(root: Path) -> Path:
    """Where the spools for the server in use lie."""
    return root / ".work" / "tracking" / hashlib.sha256(tracking_uri(root).encode()).hexdigest()[:8]


def held(path: Path) -> bool:
    """Whether a living process holds the lock on the file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def born(pid: int) -> str:
    """When the process started, told alike at every call: Linux's wall-clock time moves with the clock.

    Nothing if it has ended, also where nobody has asked for its exit code yet.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if facts[0] == "Z" else facts[19]
    except OSError:
        return f"{psutil.Process(pid).create_time():.2f}" if psutil.pid_exists(pid) else ""


def key_of(pid: int) -> str:
    """The name of a dvc process that lives, by which its run is found."""
    return f"{socket.gethostname()}:{pid}:{born(pid)}"


def age() -> float:
    """Seconds since this process was started."""
    start = float(born(os.getpid()))
    if hasattr(time, "CLOCK_BOOTTIME"):  # Linux: `born` counts ticks since the machine started
        return time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK")
    return time.time() - start


def read(path: Path) -> str:
    """What the file holds; nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def now_ms() -> int:
    """The time, in milliseconds since 1970."""
    return time.time_ns() // 10**6


def one_line(error: Exception) -> str:
    """An exception as one line without a password; of bounded length, if it is none of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return without_password(text)
    return textwrap.shorten(without_password(f"{type(error).__name__}: {text}"), 300, placeholder=" ...")


def without_password(text: str) -> str:
    """A text without the password of a URL in it."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)
