"""MLflow's UI on this machine, opened on the table of runs with its headline columns."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from pathlib import Path
from typing import NoReturn

from llm.common.errors import DATA, RUNNING, USAGE, UserError
from llm.tracking import places, spool
from llm.tracking.tracker import Recorder


def serve(root: Path, port: int = 5000) -> NoReturn:
    """Become MLflow's UI on 127.0.0.1.

    Raises UserError where the port is taken, the database is none, or the runs are on another server.
    """
    root = spool.main_root(root)
    uri = spool.tracking_uri(root)
    spool.check_store(uri)
    if not uri.startswith("sqlite:"):
        web = uri.startswith("http")
        fix = "open that in the browser" if web else '`mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"`'
        raise UserError("MLFLOW_TRACKING_URI", f"the runs are at {spool.without_password(uri)}", fix, USAGE)
    if not 0 < port < 2**16:
        raise UserError(f"port {port}", "is no port", "give one from 1 to 65535", USAGE)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(f"port {port}", spool.one_line(error), f"`PORT={port + 1} make ui`", RUNNING) from None
    database = Path(uri.removeprefix("sqlite:///"))
    try:
        places.follow(root, uri)
    except sqlite3.Error as error:
        fix = "move it away: the next run makes a new one"
        if isinstance(error, sqlite3.OperationalError):  # read-only, or locked
            fix = "make the file and its folder writable, or copy the project and run this there"
        raise UserError(str(database), spool.one_line(error), fix, DATA) from None
    page = _page(root, database, port)
    recorder = Recorder(root, None)
    # what ended stages could not deliver; a stage that runs now has a recorder
    recorder.wait(lambda: all(spool.held(path) for path in recorder.folder.glob("*.jsonl")))
    print(f"MLflow starts on {page} (Ctrl-C ends it)", flush=True)
    words = command(root, port)
    os.execve(words[0], words, dict(os.environ) | spool.QUIET)


def command(root: Path, port: int) -> list[str]:
    """The command that serves the runs of the project in `root`; it wants the variables of `spool.QUIET`."""
    hosts = f"127.0.0.1:{port},localhost:{port}"  # MLflow's own list lets names such as 10.evil.com in
    words = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", spool.tracking_uri(root)]
    words += ["--artifacts-destination", (root / "mlartifacts").as_uri(), "--workers", "1"]
    words += ["--uvicorn-opts", "--log-level warning"]  # no line per request
    return [*words, "--host", "127.0.0.1", "--port", str(port), "--allowed-hosts", hosts]


def _page(root: Path, database: Path, port: int) -> str:
    """The address of the table of runs with its headline columns, once there are runs.

    Raises UserError where another version of MLflow made the tables, and this one does not convert them by itself.
    """
    address, experiment = f"http://127.0.0.1:{port}/", None
    try:
        if database.is_file():
            _, experiment = spool.connect(root)
    except Exception as error:
        if "db upgrade" in str(error):
            upgrade = f"`mlflow db upgrade {spool.tracking_uri(root)}`"
            fix = f"copy the file, then {upgrade}; if a newer MLflow made it, install that one"
            raise UserError(str(database), spool.one_line(error), fix, DATA) from None
    page = f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={spool.VIEW}"
    return address + page if experiment else address
