"""The run of a whole `dvc repro` tells of that one, also when the next begins before it is complete."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llm.common import files
from llm.tracking import models, recorder, spool, tracker
from llm.tracking.config import TrackingConfig
from llm.tracking.parent import Parent
from tests.llm.tracking.conftest import change, report
from tests.llm.tracking.test_tracking import serve, stop
from tests.ports import reserved_port


@pytest.fixture
def parent(client: Any, folder: Path, tmp_path: Path) -> Parent:
    dvc = {"key": "a:1", "pid": os.getpid(), "born": spool.born(os.getpid()), "command": "dvc repro"}
    header = {"folder": str(folder), "dvc": dvc, "git": None, "exp": None, "time": spool.now_ms(), "user": "a"}
    return Parent(client, client.create_experiment("e", (tmp_path / "artifacts").as_uri()), header)


def test_columns_are_in_the_order_of_the_stages_also_of_those_with_items() -> None:
    order = ["check", "tokenize", "pretrain"]
    names = ["check.seconds", "tokenize@spam.rows", "pretrain.val_loss", "another.loss"]
    assert [recorder._place(f"metrics.`{name}`", order) for name in names] == [0, 1, 2, 3]


def test_it_has_the_figures_of_the_stages_that_did_not_run(client: Any, parent: Parent) -> None:
    parent.ran = {"judge": client.create_run(parent._experiment).info.run_id}
    parent.finish()
    data = client.get_run(parent.id).data
    assert data.metrics == {"train.loss": 1.5, "train.by.ham": 2.0}
    assert data.tags["cached"] == "data@a, train"
    assert data.params["train.lr"] == "0.5"


@pytest.mark.slow
def test_a_server_takes_the_run_of_a_stage_that_made_no_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    with reserved_port() as port:
        server = serve(tmp_path, port)
        try:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
            client = MlflowClient()
            experiment = client.create_experiment("e")
            maker = client.create_run(experiment, tags={f"{spool.OUTPUT}data/a": "a"})
            dvc = {"key": "a:1", "pid": os.getpid(), "born": spool.born(os.getpid()), "command": "dvc repro"}
            header = {"folder": str(folder), "dvc": dvc, "git": None, "exp": None, "time": spool.now_ms(), "user": "a"}
            parent = Parent(client, experiment, header)
            parent.finish()
            data = client.get_run(parent.id).data
            assert data.tags["made_by.data.a"] == maker.info.run_id
            assert data.metrics == {"train.loss": 1.5, "train.by.ham": 2.0}
        finally:
            stop(server)


def test_it_takes_nothing_from_a_folder_with_other_parameters(client: Any, parent: Parent, folder: Path) -> None:
    change(folder, judge={"prompt": "guarded"})
    parent.finish()
    data = client.get_run(parent.id).data
    assert data.metrics == {}
    assert "cached" not in data.tags


def test_it_takes_no_figures_of_a_report_that_was_written_since(client: Any, parent: Parent, folder: Path) -> None:
    (folder / report("train")).write_text('{"loss": 9}')
    parent.finish()
    assert client.get_run(parent.id).data.metrics == {}


def test_it_lives_as_long_as_its_dvc_process(parent: Parent) -> None:
    assert parent.lives()
    parent._header["dvc"]["born"] = "0"
    assert not parent.lives()


def test_it_is_completed_after_its_recorder_was_killed(
    client: Any, parent: Parent, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "e")
    (spools := tmp_path / "spools").mkdir()
    ended = parent._header | {"dvc": parent._header["dvc"] | {"born": "0"}}
    recorder._Store(folder, spools).parent(ended)  # killed here
    (left,) = spools.glob("*.parent")
    assert client.get_run(parent.id).data.metrics == {}
    (spools / "damaged.parent").write_text("{")
    recorder.record(folder, spools)
    assert client.get_run(parent.id).data.metrics == {"train.loss": 1.5, "train.by.ham": 2.0}
    assert not left.exists()
    assert list(spools.glob("*.parent")) == []


def test_one_that_cannot_be_completed_does_not_hold_up_the_others(
    parent: Parent, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "e")
    (spools := tmp_path / "spools").mkdir()
    recorder._Store(folder, spools).parent(parent._header | {"dvc": parent._header["dvc"] | {"born": "0"}})
    damaged, lock = folder / report("judge"), folder / "dvc.lock"
    before = files.dvc_md5(damaged)
    damaged.write_text("{")
    lock.write_text(lock.read_text().replace(before, files.dvc_md5(damaged)))
    recorder.record(folder, spools)
    assert capsys.readouterr().err != ""
    assert [path.suffix for path in spools.iterdir() if path.name != "recorder.lock"] == [".bad"]


@pytest.mark.parametrize(("root", "stands"), [(None, 1), ("its own", 1), ("another", 2)])
def test_the_current_model_is_the_one_in_the_project_also_from_the_cache(
    root: str | None, stands: int, client: Any, parent: Parent, folder: Path
) -> None:
    for md5 in ("m", "other"):  # dvc.lock has the first one
        run = client.create_run(parent._experiment).info.run_id
        models.log(client, run, parent._experiment, "m", {"path": "models/m", "dvc.md5": md5}, {})
    parent._header["root"] = str(folder) if root == "its own" else root
    parent.finish()
    assert int(client.get_registered_model("m").aliases[models.CURRENT]) == stands
    unseen = {"path": "models/m", "dvc.md5": "unseen"}
    models.log(client, client.create_run(parent._experiment).info.run_id, parent._experiment, "m", unseen, {}, False)
    assert int(client.get_registered_model("m").aliases[models.CURRENT]) == stands


GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c")


@pytest.mark.parametrize("gone", ["", "reports/train"])  # all of the folder, or what DVC has come to
def test_it_takes_an_experiment_from_git_once_dvc_has_deleted_its_folder(
    gone: str, client: Any, parent: Parent, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("mlflow.db", "artifacts", "copy"))
    monkeypatch.chdir(folder)
    ref = "refs/exps/ab/cdef/one"
    for words in (["init", "-q"], ["add", "params.yaml", "dvc.lock", "reports"], ["commit", "-qm", "one"]):
        subprocess.run([*GIT, *words], check=True)
    subprocess.run(["git", "update-ref", ref, "HEAD"], check=True)
    shutil.rmtree(copy / gone)
    parent._folder = copy
    parent.finish()
    assert client.get_run(parent.id).data.metrics == {}
    parent._header["ref"] = ref
    parent.finish()
    assert client.get_run(parent.id).data.metrics == {"train.loss": 1.5, "train.by.ham": 2.0}


def test_a_run_is_completed_when_its_dvc_has_ended_however_long_that_takes(
    client: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(recorder, "IDLE_SECONDS", 0.1, raising=False)
    monkeypatch.setattr(tracker.Recorder, "problem", lambda _: None)  # this process is the recorder
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as dvc:
        facts = {"key": "a:1", "pid": dvc.pid, "born": spool.born(dvc.pid), "command": "dvc repro"}
        monkeypatch.setattr(tracker, "_dvc", lambda: facts)
        stage = tracker.start_tracking("judge", {"seed": 1}, folder, TrackingConfig(True, False))
        thread = threading.Thread(target=recorder.record, args=(folder, spool.folder_of(folder)))
        thread.start()
        stage.close(None)
        time.sleep(1)  # DVC keeps the outputs
        assert thread.is_alive()
        dvc.communicate(b"\n")
    thread.join()
    experiment = client.get_experiment_by_name(spool.EXPERIMENT).experiment_id
    (run,) = client.search_runs([experiment], "tags.`dvc.process` = 'a:1'")
    assert run.data.metrics["train.loss"] == 1.5


def test_a_process_that_nobody_waits_for_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        deadline = time.monotonic() + 30
        while spool.born(process.pid):  # the exit code is read below
            assert time.monotonic() < deadline
            time.sleep(0.05)
