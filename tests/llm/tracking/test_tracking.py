"""Runs arrive in MLflow whole, nested and once; a server that fails costs one warning line and little time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from llm.common.errors import DATA, RUNNING, SERVICE, USAGE, UserError
from llm.tracking import attach, lookup, models, recorder, spool, tracker, ui
from llm.tracking.config import TrackingConfig
from llm.tracking.tracker import ARTIFACT_MEGABYTES, WAIT_SECONDS, NullTracker, start_tracking
from tests.ports import reserved_port

ON = TrackingConfig(enabled=True, required=False)
REQUIRED = TrackingConfig(enabled=True, required=True)
MD5 = "0123456789abcdef0123456789abcdef.dir"
SECRET = "sk-very-secret"

# A stand-in for dvc: a process of that name which runs the given stages, `&` in front of one starts it beside the next.
DVC = """#!{python}
import subprocess, sys
beside = []
for stage in sys.argv[2:]:
    command = [sys.executable, "stage.py", stage.removeprefix("&")]
    beside.append(subprocess.Popen(command))
    if not stage.startswith("&"):
        while beside:
            beside.pop().wait()
"""

STAGE = """
import os, signal, sys
from pathlib import Path
from llm.tracking import tracker
from llm.tracking.config import TrackingConfig
from llm.tracking.tracker import start_tracking

tracker.WAIT_SECONDS = 300.0
stage = sys.argv[1]
config = TrackingConfig("TRACKED" not in os.environ, False)
tracker = start_tracking(stage, {"seed": 1, stage: {"lr": 0.5}}, Path.cwd(), config)
for step in range(1500):
    tracker.metrics({"loss": 1 / (step + 1)}, step)
Path(f"{stage}.json").write_text("{}")
tracker.artifact(Path(f"{stage}.json"))
tracker.headline({"val_loss": 1.5})
if stage == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if stage == "model":
    tracker.model(Path("models/demo"), "0123456789abcdef0123456789abcdef.dir")
    tracker.dataset(Path("data/spam"), "0123456789abcdef0123456789abcdef.dir")
    tracker.table("answers", ["prompt", "score"], [["a", 1], ["b", 2]])
tracker.close("params.yaml: seed: 0 is not above 0 | fix: give one" if stage == "failing" else None)
"""


def project(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dvc").write_text(DVC.format(python=sys.executable))
    (folder / "dvc").chmod(0o755)
    (folder / "stage.py").write_text(STAGE)
    (folder / "params.yaml").write_text(
        "seed: 1\nmodel: {lr: 0.5}\nunused: {list: [1, 2], nothing: null}\ntracking: {enabled: true, required: false}\n"
    )
    (folder / "dvc.yaml").write_text("stages: {last: {cmd: x}, model: {cmd: x}, download: {cmd: x}}\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run([*git, "init", "-q", "-b", "main"], cwd=folder, check=True)
    subprocess.run([*git, "add", "."], cwd=folder, check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], cwd=folder, check=True)
    return folder


def repro(folder: Path, *stages: str, **environment: str) -> str:
    """Run the stages under a process named dvc; return what they printed on stderr."""
    paths = {"PYTHONPATH": str(Path(__file__).parents[3])}
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "DVC"))}
    command = ["./dvc", "repro", *stages]
    environment = inherited | paths | environment
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stderr


def runs(folder: Path) -> dict[str, Any]:
    """The runs in the project's database by name, parents first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name(spool.EXPERIMENT)
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def spools(folder: Path) -> list[str]:
    return [path.name for path in (folder / ".work/tracking").rglob("*.*") if not path.name.startswith("recorder.")]


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def recorder_ended(folder: Path) -> bool:
    lock = next((folder / ".work/tracking").rglob("recorder.lock"))
    return wait_for(lambda: not spool.held(lock))


def losses(folder: Path) -> list[tuple[int, float]]:
    """The steps and values of the curve `loss` of the run `pretrain`."""
    from mlflow.tracking import MlflowClient

    run = runs(folder)["pretrain"].info.run_id
    points = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_metric_history(run, "loss")
    return [(point.step, point.value) for point in points]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in list(os.environ):
        if key.startswith(("MLFLOW", "DVC")):
            monkeypatch.delenv(key)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setattr(tracker, "WAIT_SECONDS", 300.0)  # a busy machine is no server that is down
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def free_port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """One `dvc repro` of many stages, in a folder with a space and an umlaut; its runs; its stderr."""
    folder = project(tmp_path_factory.mktemp("ein pfad ü"))
    stages = ["&download@spam", "&download@corpus", "download@instructions", "model", "failing", "killed", "last"]
    stderr = repro(folder, *stages, OPENAI_API_KEY=SECRET, DVC_EXP_NAME="tidy-newt")
    return folder, runs(folder), stderr


Recorded = tuple[Path, Mapping[str, Any], str]


@pytest.mark.slow
def test_stages_of_one_dvc_process_share_one_parent(recorded: Recorded) -> None:
    _, found, stderr = recorded
    parents = [run for run in found.values() if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.run_name.split()[0] for run in parents] == ["tidy-newt"]
    assert len(found) == 8, "three of them started at once"
    assert {run.data.tags.get("mlflow.parentRunId") for run in found.values()} == {None, parents[0].info.run_id}
    assert stderr == ""


def test_a_file_is_attached_to_the_parent(recorded: Recorded, tmp_path: Path) -> None:
    from mlflow.artifacts import list_artifacts

    folder, found, _ = recorded
    parent = next(run for name, run in found.items() if name.startswith("tidy-newt"))
    (tmp_path / "report.html").write_text("<p>")
    assert attach.attach(folder, parent.data.tags["dvc.process"], tmp_path / "report.html")
    listed = list_artifacts(run_id=parent.info.run_id, tracking_uri=f"sqlite:///{folder}/mlflow.db")
    assert {artifact.path for artifact in listed} == {"report.html", "changes.diff"}
    assert not attach.attach(folder, "another:1:2", tmp_path / "report.html")
    assert attach.last_recorded(folder) > 0


def test_a_file_that_cannot_be_attached_is_one_warning(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    assert not attach.attach(tmp_path, "key", tmp_path / "report.html")
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert said.startswith("warning: tracking: report.html is not in MLflow: ")
    assert "secret" not in said


def test_parent_tells_the_experiment_the_commit_and_the_headlines(recorded: Recorded) -> None:
    folder, found, _ = recorded
    parent = next(run for name, run in found.items() if name.startswith("tidy-newt"))
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=folder, text=True).strip()
    assert parent.info.run_name.endswith(f"main@{commit[:7]}")
    assert parent.data.tags["mlflow.source.git.commit"] == commit
    assert parent.data.tags["dvc.exp"] == "tidy-newt"
    assert parent.data.metrics["model.val_loss"] == 1.5
    assert parent.data.metrics["download.spam.val_loss"] == 1.5
    wanted = {"seed": "1", "model.lr": "0.5", "unused.list": "[1, 2]", "unused.nothing": "None"}
    wanted |= {"tracking.enabled": "True", "tracking.required": "False"}
    assert parent.data.params == wanted  # of params.yaml, whatever the stages read
    assert {"cpu", "version.torch", "version.python"} <= parent.data.tags.keys()


def test_every_point_arrives_in_more_than_one_batch(recorded: Recorded) -> None:
    from mlflow.tracking import MlflowClient

    folder, found, _ = recorded
    for name in ("download@spam", "failing", "killed"):
        points = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_metric_history(found[name].info.run_id, "loss")
        assert {point.step: point.value for point in points} == {step: 1 / (step + 1) for step in range(1500)}, name
        assert len(points) == 1500


def test_status_tells_how_a_stage_ended(recorded: Recorded) -> None:
    _, found, _ = recorded
    status = {name: run.info.status for name, run in found.items() if not name.startswith("tidy-newt")}
    assert status.pop("failing") == "FAILED"
    assert status.pop("killed") == "KILLED"
    assert set(status.values()) == {"FINISHED"}
    assert found["failing"].data.tags["error"].startswith("params.yaml: seed")
    parent = next(run for name, run in found.items() if name.startswith("tidy-newt"))
    assert parent.info.status == "FAILED"
    assert parent.info.end_time >= found["last"].info.end_time


def test_model_and_dataset_are_linked_by_dvc_md5(recorded: Recorded) -> None:
    from mlflow.tracking import MlflowClient

    folder, found, _ = recorded
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    version = client.get_model_version_by_alias("demo", models.CURRENT)
    assert version.tags["dvc.md5"] == MD5
    assert version.run_id == found["model"].info.run_id
    parent = next(run for name, run in found.items() if name.startswith("tidy-newt"))
    for run in (found["model"], parent):
        (dataset,) = run.inputs.dataset_inputs
        assert (dataset.dataset.name, dataset.dataset.digest) == ("spam", MD5)
    assert [f"models:/{model.model_id}" for model in parent.outputs.model_outputs] == [version.source]


def test_artifacts_and_tables_lie_in_the_project(recorded: Recorded) -> None:
    folder, found, _ = recorded
    names = {path.name for path in (folder / "mlartifacts" / found["model"].info.run_id).rglob("*.json")}
    assert names == {"model.json", "answers.json"}


def test_artifacts_lie_beside_the_database_of_whichever_copy_writes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", spool.tracking_uri(tmp_path / "project"))
    (tmp_path / "project").mkdir()
    store = recorder._Store(tmp_path / "copy", tmp_path)
    location = store.client.get_experiment(store.experiment).artifact_location
    assert location == (tmp_path / "project/mlartifacts").as_uri()


def test_nothing_is_left_and_no_secret_is_stored(recorded: Recorded) -> None:
    folder, _, _ = recorded
    assert recorder_ended(folder)
    assert spools(folder) == []
    stored = [path for path in folder.rglob("*") if path.is_file() and path.name != "dvc"]
    assert [path for path in stored if SECRET.encode() in path.read_bytes()] == []


def test_recorder_ends_with_its_dvc(recorded: Recorded) -> None:
    assert recorder_ended(recorded[0])


@pytest.mark.slow
def test_second_run_of_equal_weights_adds_no_model_version(recorded: Recorded) -> None:
    from mlflow.tracking import MlflowClient

    folder, _, _ = recorded
    repro(folder, "model")
    versions = MlflowClient(f"sqlite:///{folder}/mlflow.db").search_model_versions("name = 'demo'")
    assert [version.version for version in versions] in (["1"], [1])
    parents = [name for name in runs(folder) if name.startswith(("tidy-newt ", "repro "))]
    assert len(parents) == 2


@pytest.mark.slow
def test_stage_by_hand_is_a_plain_run_and_leaves_the_environment_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(2**20 * (ARTIFACT_MEGABYTES + 1))
    tracker = start_tracking("pretrain", {"seed": 1, "shape": (1, 2)}, tmp_path, REQUIRED)
    tracker.metrics({"loss": float("nan")}, 1)
    tracker.artifact(tmp_path / "missing.json")
    tracker.artifact(tmp_path / "large.bin")
    recorder = tracker._recorder._process
    assert recorder is not None
    time.sleep(0.2)
    assert recorder.poll() is None, "the recorder stays while the stage runs"
    tracker.close(None)
    assert tracker._recorder._process is recorder
    assert dict(os.environ) == before
    missing, large = capfd.readouterr().err.splitlines()
    assert missing.startswith("warning: tracking: FileNotFoundError")
    assert "large.bin (9 MB) is too large" in large
    assert not list((tmp_path / "mlartifacts").rglob("*.bin"))
    (run,) = runs(tmp_path).values()
    assert (run.info.run_name, run.info.status) == ("pretrain", "FINISHED")
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.params["shape"] == "(1, 2)"


@pytest.mark.slow
def test_unreachable_server_costs_one_warning_and_little_time(tmp_path: Path, free_port: int) -> None:
    folder = project(tmp_path / "project")
    begun = time.monotonic()
    repro(folder, "a", "b", "c", TRACKED="no")
    subprocess.run([sys.executable, "-c", "from mlflow.tracking import MlflowClient; MlflowClient()"], check=True)
    needed = time.monotonic() - begun  # the processes and MLflow's import alone: many seconds on a busy machine
    begun = time.monotonic()
    stderr = repro(folder, "a", "b", "c", MLFLOW_TRACKING_URI=f"http://user:{SECRET}@127.0.0.1:{free_port}")
    assert time.monotonic() - begun < 8 + needed  # with MLflow's own patience, each of the three would take minutes
    assert stderr.startswith("warning: tracking: ")
    assert stderr.count("\n") == 1
    assert SECRET not in stderr
    assert len([name for name in spools(folder) if name.endswith(".jsonl")]) == 3, "kept for a server that is back"


@pytest.mark.slow
def test_what_waits_for_a_server_is_sent_without_another_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    start_tracking("pretrain", {"seed": 1}, tmp_path, ON).close(None)
    assert wait_for(lambda: recorder_ended(tmp_path), 60)
    assert spools(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    server = serve(tmp_path, free_port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    try:
        attach.deliver(tmp_path)
        assert wait_for(lambda: not spools(tmp_path), 120)
        assert runs(tmp_path)["pretrain"].info.status == "FINISHED"
    finally:
        stop(server)
    log = spool.folder_of(tmp_path) / "recorder.log"
    started = log.stat().st_mtime_ns
    attach.deliver(tmp_path)
    assert log.stat().st_mtime_ns == started, "nothing is left, so none is started"


@pytest.mark.slow
def test_a_stage_that_does_not_wait_is_recorded_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start_tracking("check", {"seed": 1}, tmp_path, ON)
    monkeypatch.setattr(tracker.Recorder, "wait", lambda *_: pytest.fail("it waits"))
    run.close(None, wait=False)
    assert wait_for(lambda: not spools(tmp_path), 300), "the recorder is not done"
    assert runs(tmp_path)["check"].info.status == "FINISHED"


def test_required_server_that_is_down_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], free_port: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    with pytest.raises(UserError) as caught:
        start_tracking("pretrain", {}, tmp_path, REQUIRED)
    assert caught.value.code == SERVICE
    assert capfd.readouterr().err == ""
    assert spools(tmp_path) == []


def test_a_server_that_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracker, "WAIT_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{SECRET}@{address}")
        start_tracking("pretrain", {}, tmp_path, ON).close(None)
    stderr = capfd.readouterr().err
    assert stderr.count("warning: tracking: ") == 1
    assert "did not take everything within 2 s" in stderr
    assert SECRET not in stderr
    assert recorder_ended(tmp_path)


@pytest.mark.slow
def test_corrupt_database_is_one_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str], free_port: int) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    tracker = start_tracking("pretrain", {}, tmp_path, ON)
    tracker.metrics({"loss": 1.0}, 1)
    tracker.close(None)
    stderr = capfd.readouterr().err
    assert stderr.count("\n") == 1
    assert "file is not a database" in stderr
    with pytest.raises(UserError, match="file is not a database") as caught:
        ui.serve(tmp_path, free_port)
    assert caught.value.code == DATA


def test_folder_that_takes_no_spool_is_one_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".work").write_text("a file where the folder should be")
    tracker = start_tracking("pretrain", {}, tmp_path, ON)
    tracker.metrics({"loss": 1.0}, 1)
    tracker.close(None)
    assert capfd.readouterr().err.count("warning: tracking: ") == 1
    with pytest.raises(UserError):
        start_tracking("pretrain", {}, tmp_path, REQUIRED)


def test_tracking_that_is_off_writes_nothing(tmp_path: Path) -> None:
    for off in (NullTracker(), start_tracking("a", {}, tmp_path, TrackingConfig(False, True))):
        off.metrics({"loss": 1.0}, 1)
        off.headline({"loss": 1.0})
        off.artifact(tmp_path / "missing.json")
        off.table("t", ["a"], [[1]])
        off.trace({"index": 0})
        off.dataset(tmp_path, MD5)
        off.model(tmp_path, MD5)
        off.close("an error")
    assert list(tmp_path.iterdir()) == []


def test_importing_tracking_imports_no_mlflow() -> None:
    code = "import sys; import llm.tracking.tracker; print('mlflow' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=Path(__file__).parents[3]) == b"False\n"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["repro"], ["repro"]),
        (["repro", "pretrain", "-f"], ["repro", "pretrain"]),
        (["--wait-for-lock", "repro", "-s", "a"], ["repro"]),
        (["exp", "run", "-S", f"judge.key={SECRET}"], ["exp", "run"]),
    ],
)
def test_command_in_a_run_name_shows_no_options(words: list[str], command: list[str]) -> None:
    assert tracker._subcommand(words) == command


def test_ui_serves_this_machine_only_and_names_its_hosts(tmp_path: Path) -> None:
    command = ui.command(tmp_path, 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--allowed-hosts") + 1] == "127.0.0.1:5001,localhost:5001"
    assert command[command.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"


def test_ui_opens_on_the_headlines(recorded: Recorded, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    folder, _, _ = recorded
    experiment = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_experiment_by_name(spool.EXPERIMENT)
    page = f"http://127.0.0.1:5000/#/experiments/{experiment.experiment_id}/runs?"
    assert ui._page(folder, folder / "mlflow.db", 5000).startswith(page)
    assert ui._page(tmp_path, tmp_path / "mlflow.db", 5000) == "http://127.0.0.1:5000/"
    columns = json.loads(experiment.tags[spool.VIEW_TAG])["selectedColumns"]
    assert columns[:2] == ["metrics.`last.val_loss`", "metrics.`model.val_loss`"]  # in the order of dvc.yaml
    assert len(columns) == len(set(columns)) == 7


def test_ui_on_a_taken_port_names_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"PORT={port + 1} make ui") as caught:
            ui.serve(tmp_path, port)
    assert caught.value.code == RUNNING


def test_ui_of_another_server_is_refused_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://user:{SECRET}@mlflow.example.org")
    with pytest.raises(UserError) as caught:
        ui.serve(tmp_path)
    assert caught.value.code == USAGE
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("uri", ["file:///nowhere/mlruns", "file:mlruns", "/nowhere/mlruns", "./mlruns", "mlruns"])
def test_runs_in_a_folder_are_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = (
        f"MLFLOW_TRACKING_URI: {uri!r} is a folder, and MLflow no longer writes runs into folders | fix: unset it, or "
    )
    for ask in (lambda: start_tracking("a", {}, tmp_path, REQUIRED), lambda: ui.serve(tmp_path)):
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value).startswith(said)
        assert caught.value.code == USAGE
    assert lookup.run(tmp_path, "1") is None
    assert said in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    spool.check_store(uri)


@pytest.mark.parametrize("uri", ["databricks", "databricks://a", "sqlite:///a.db", "postgresql+psycopg2://a@b/c"])
def test_other_stores_are_not_refused(uri: str) -> None:
    spool.check_store(uri)


def test_the_ui_of_another_database_is_that_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg2://user:{SECRET}@127.0.0.1/mlflow")
    with pytest.raises(UserError, match="mlflow ui --backend-store-uri") as caught:
        ui.serve(tmp_path)
    assert SECRET not in str(caught.value)


def test_a_folder_is_one_warning_if_tracking_is_not_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///nowhere/mlruns")
    start_tracking("pretrain", {}, tmp_path, ON).close(None)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("warning: tracking: MLFLOW_TRACKING_URI: 'file:///nowhere/mlruns' is a folder, ")


def test_the_ui_says_that_another_version_of_mlflow_made_the_tables(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '17e22815139b'")
    database.close()
    with pytest.raises(UserError) as caught:
        ui.serve(tmp_path, free_port)
    assert caught.value.where == str(tmp_path / "mlflow.db")
    assert "found version 17e22815139b" in caught.value.what
    assert f"`mlflow db upgrade sqlite:///{tmp_path}/mlflow.db`" in caught.value.fix


def test_the_ui_says_that_it_cannot_write_into_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:  # a view takes no writes, as a read-only file does
        row = "1 AS experiment_id, 'a' AS name, 'file:///moved/mlartifacts' AS artifact_location"
        database.execute(f"CREATE VIEW experiments AS SELECT {row}")
    database.close()
    with pytest.raises(UserError, match=r"OperationalError: cannot modify .* fix: make the file .* writable") as caught:
        ui.serve(tmp_path, free_port)
    assert caught.value.code == DATA


def test_a_long_message_is_cut_between_words() -> None:
    said = spool.one_line(ValueError("word " * 100))
    assert said.startswith("ValueError: word word")
    assert said.endswith("word ...")
    assert len(said) <= 300


def test_spool_is_readable_json_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    tracker = start_tracking("pretrain", {"seed": 1}, tmp_path, ON)
    tracker.metrics({"loss": 1.0}, 1)
    (spool,) = (tmp_path / ".work/tracking").rglob("*.jsonl")
    header, point = (json.loads(line) for line in spool.read_text().splitlines())
    assert header["params"] == {"seed": "1"}
    assert point["metrics"] == {"loss": 1.0}
    tracker.close(None)


@pytest.mark.slow
def test_locked_database_is_one_warning_and_the_run_is_delivered_later(tmp_path: Path) -> None:
    folder = project(tmp_path / "project")
    repro(folder, "first")
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("BEGIN EXCLUSIVE")
        stderr = repro(folder, "second")
    database.close()
    assert stderr.count("\n") == 1
    assert stderr.startswith("warning: tracking: ")
    assert "second" not in runs(folder)
    assert recorder_ended(folder)
    assert repro(folder, "third") == ""
    assert wait_for(lambda: {"second", "third"} <= runs(folder).keys())
    assert len([name for name in runs(folder) if name.startswith("repro ")]) >= 1


@pytest.mark.slow
def test_killed_recorder_is_replaced_and_nothing_is_doubled(tmp_path: Path) -> None:
    tracker = start_tracking("pretrain", {"seed": 1}, tmp_path, REQUIRED)
    for step in range(100):
        tracker.metrics({"loss": 1.0}, step)
    assert wait_for(lambda: len(losses(tmp_path)) == 100)
    process = tracker._recorder._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    other = start_tracking("other", {"seed": 1}, tmp_path, ON)
    other.close(None)
    tracker._recorder._process = None
    tracker.close(None)
    assert set(runs(tmp_path)) == {"pretrain", "other"}
    assert len(losses(tmp_path)) == 100


@pytest.mark.slow
def test_server_that_dies_half_way_costs_one_warning_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], free_port: int
) -> None:
    server = serve(tmp_path, free_port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    tracker = start_tracking("pretrain", {"seed": 1}, tmp_path, REQUIRED)
    tracker.metrics({"loss": 1.0}, 1)
    stop(server)
    begun = time.monotonic()
    tracker.metrics({"loss": 0.5}, 2)
    tracker.close(None)
    assert time.monotonic() - begun < WAIT_SECONDS + 5
    assert capfd.readouterr().err.count("warning: tracking: ") == 1

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    server = serve(tmp_path, free_port)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    try:
        start_tracking("later", {}, tmp_path, REQUIRED).close(None)
        assert wait_for(lambda: runs(tmp_path)["pretrain"].info.status == "FINISHED")
        assert losses(tmp_path) == [(1, 1.0), (2, 0.5)]
    finally:
        stop(server)


@pytest.mark.slow
def test_ui_answers_its_own_name_and_refuses_others(tmp_path: Path, free_port: int) -> None:
    import requests

    server = serve(tmp_path, free_port)
    try:
        url = f"http://127.0.0.1:{free_port}/"
        assert requests.get(url, timeout=60).status_code == 200
        assert requests.get(f"http://localhost:{free_port}/", timeout=60).status_code == 200
        assert requests.get(url, headers={"Host": "10.evil.com"}, timeout=60).status_code == 403
    finally:
        stop(server)


def serve(root: Path, port: int) -> subprocess.Popen[bytes]:
    environment = os.environ | spool.QUIET
    server = subprocess.Popen(
        ui.command(root, port), env=environment, start_new_session=True, stderr=subprocess.DEVNULL
    )
    assert wait_for(lambda: answers(port), 180)
    return server


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def stop(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
