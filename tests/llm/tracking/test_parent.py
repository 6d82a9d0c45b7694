"""The run of a whole `dvc repro` tells of that one, also when the next begins before it is complete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from llm.tracking import recorder, spool
from llm.tracking.parent import Parent
from tests.llm.tracking.conftest import change, report


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
