"""A team's services, with real servers on loopback: MLflow on PostgreSQL with artifacts in S3, and a DVC remote in S3.

Needs the extras `postgres` and `s3`, PostgreSQL's programs, and moto's S3 server (docs/cluster.md). Skips without them.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.stages.project import Project

PROGRAMS = f"{os.environ['PATH']}{os.pathsep}" + os.pathsep.join(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
INITDB, POSTGRES = (shutil.which(name, path=PROGRAMS) for name in ("initdb", "postgres"))
MOTO = os.environ.get("MOTO_SERVER") or shutil.which("moto_server")
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # else the server starts eight processes more
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def missing() -> list[str]:
    packages = [name for name in ("psycopg2", "boto3", "dvc_s3") if importlib.util.find_spec(name) is None]
    found = {"PostgreSQL's initdb and postgres": INITDB and POSTGRES, "moto_server": MOTO}
    return packages + [name for name, path in found.items() if not path]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())} (docs/cluster.md)"),
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def server(command: list[str], log: Path, port: int, seconds: float, **options: Any) -> Iterator[None]:
    """Run a server until the block ends; it is ready when its port answers."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, **options) as process:
        try:
            deadline = time.monotonic() + seconds
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield
        finally:
            started = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            process.terminate()
            _, alive = psutil.wait_procs(started, timeout=20)
            for one in alive:
                one.kill()


@pytest.fixture
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a database server. It refuses to run as root, so root starts it as the user `postgres`."""
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    home = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    port = free_port()
    try:
        shutil.chown(home, user)
        run_as: dict[str, Any] = {"user": user, "cwd": home}
        command = [INITDB, "-D", home / "db", "-U", "mlflow", "-A", "trust", "-N"]
        told = subprocess.run(command, capture_output=True, text=True, check=False, **run_as)
        assert told.returncode == 0, told.stderr
        words = ["-D", home / "db", "-h", "127.0.0.1", "-p", str(port), "-k", home, "-c", "fsync=off"]
        log = tmp_path_factory.mktemp("postgres") / "log"
        with server([POSTGRES, *words], log, port, 60, **run_as):
            yield f"mlflow@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[Any]:
    """A client of an S3 server, with the buckets `mlflow` and `dvc`."""
    import boto3

    port = free_port()
    with server([MOTO, "-H", "127.0.0.1", "-p", str(port)], tmp_path / "s3.log", port, 60):
        session = boto3.Session(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"], None, "us-east-1")
        client = session.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        for bucket in ("mlflow", "dvc"):
            client.create_bucket(Bucket=bucket)
        yield client


@pytest.fixture
def mlflow(postgres: str, s3: Any, tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server, started as docs/cluster.md says."""
    port = free_port()
    words = ["--backend-store-uri", f"postgresql+psycopg2://{postgres}", "--artifacts-destination", "s3://mlflow"]
    words += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = os.environ | KEYS | {"MLFLOW_S3_ENDPOINT_URL": s3.meta.endpoint_url} | LEAN
    command = [sys.executable, "-m", "mlflow", "server", *words]
    with server(command, tmp_path / "mlflow.log", port, 180, env=environment, cwd=tmp_path):
        address = f"http://127.0.0.1:{port}"
        assert urllib.request.urlopen(f"{address}/health", timeout=60).read() == b"OK"
        yield address


def objects(s3: Any, bucket: str) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [found["Key"] for page in pages for found in page.get("Contents", [])]


def test_a_training_is_recorded_on_the_server_and_its_outputs_come_back_from_s3(
    mlflow: str, s3: Any, postgres: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    project = Project.small(tmp_path / "project", tracking={"enabled": True, "required": True})
    done = project.run("dvc", "repro", "pretrain", env={"MLFLOW_TRACKING_URI": mlflow})
    assert "warning" not in done.stderr.lower(), done.stderr

    client = MlflowClient(mlflow)
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = {run.info.run_name: run for run in client.search_runs(experiments)}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["pretrain"].data.metrics["loss/val"] > 0
    assert [model.name for model in client.search_registered_models()] == ["pretrain"]
    assert any(key.endswith("metrics.json") for key in objects(s3, "mlflow")), objects(s3, "mlflow")
    asked = ["psql", "-At", f"postgresql://{postgres}", "-c", "select count(*) from metrics"]
    rows = subprocess.run(asked, capture_output=True, text=True, check=True)
    assert int(rows.stdout) > 0

    outputs = project.bytes("models", "data/corpus", "data/tokenizer")
    for words in (["add", "-d", "store", "s3://dvc/cache"], ["modify", "store", "endpointurl", s3.meta.endpoint_url]):
        project.run("dvc", "remote", *words)
    project.run("dvc", "push", "pretrain", "tokenizer", "tokenize@corpus", env=KEYS)
    for name in ("models", "data/corpus", "data/tokenizer", ".dvc/cache"):
        shutil.rmtree(project.folder / name)
    project.run("dvc", "pull", "pretrain", "tokenizer", "tokenize@corpus", env=KEYS)
    assert project.bytes("models", "data/corpus", "data/tokenizer") == outputs
    assert project.run("llm", "fsck", ok=False).stderr == ""
