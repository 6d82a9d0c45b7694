"""MLflow's UI on this machine, opened on the table of runs with its headline columns."""

from __future__ import annotations

import os
import socket
import sqlite3
import sys
from contextlib import closing
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
    page = _page(database, port)
    try:
        places.follow(root, uri)
    except sqlite3.Error as error:  # read-only, or locked
        fix = "make the file and its folder writable, or copy the project and run this there"
        raise UserError(str(database), spool.one_line(error), fix, DATA) from None
    _check_tables(root, database, uri)
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


def _check_tables(root: Path, database: Path, uri: str) -> None:
    """Raise UserError where another version of MLflow made the tables, and this one does not convert them by itself."""
    try:
        if database.is_file():
            spool.connect(root)
    except Exception as error:
        if "db upgrade" in str(error):
            fix = f"copy the file, then `mlflow db upgrade {uri}`; if a newer MLflow made it, install that one"
            raise UserError(str(database), spool.one_line(error), fix, DATA) from None


def _page(database: Path, port: int) -> str:
    """The address of the table of runs with its headline columns, once there are runs."""
    address = f"http://127.0.0.1:{port}/"
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            query = "SELECT experiment_id FROM experiments WHERE name = ?"
            (experiment,) = connection.execute(query, (spool.experiment_name(),)).fetchone()
    except (sqlite3.OperationalError, TypeError):  # no database yet, or no runs in it
        return address
    except sqlite3.DatabaseError as error:
        fix = "move it away: the next run makes a new one"
        raise UserError(str(database), spool.one_line(error), fix, DATA) from None
    return f"{address}#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={spool.VIEW}"
