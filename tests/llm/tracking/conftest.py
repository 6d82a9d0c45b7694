"""A project after a `dvc repro` of three stages: params.yaml, dvc.lock and reports."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm.tracking.state import State

PARAMS = {"seed": 1, "train": {"lr": 0.5, "epochs": 2}, "judge": {"prompt": "book"}}
PARAMS |= {"tracking": {"enabled": True, "required": False}}
REPORTS = {"train": {"loss": 1.5, "kept": True, "by": {"ham": 2}}, "judge": {"name": "x"}}


def report(stage: str) -> str:
    return f"reports/{stage}/metrics.json"


def md5(stage: str) -> str:
    return hashlib.md5(json.dumps(REPORTS[stage]).encode()).hexdigest()


def lock(**changes: Any) -> dict[str, Any]:
    def entry(used: dict[str, Any], deps: dict[str, str], outs: dict[str, str]) -> dict[str, Any]:
        pairs = {"deps": deps, "outs": outs}
        listed = {name: [{"path": p, "md5": m} for p, m in found.items()] for name, found in pairs.items()}
        return {"cmd": "x", "params": {"params.yaml": used}, **listed}

    stages = {
        "data@a": entry({"seed": 1}, {"source.txt": "s"}, {"data/a": "a"}),
        "train": entry(
            {"train": {"lr": 0.5, "epochs": 2}}, {"data/a": "a"}, {"models/m": "m", report("train"): md5("train")}
        ),
        "judge": entry({"judge.prompt": "book"}, {"models/m": "m"}, {report("judge"): md5("judge")}),
    }
    return {"schema": "2.0", "stages": stages | changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock(), sort_keys=False))
    for stage, values in REPORTS.items():
        (tmp_path / report(stage)).parent.mkdir(parents=True)
        (tmp_path / report(stage)).write_text(json.dumps(values))
    return tmp_path


def change(folder: Path, **sections: Any) -> State:
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | sections))
    return State.read(folder)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without runs: making its tables takes seconds."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of a database of its own."""
    from mlflow.tracking import MlflowClient

    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return MlflowClient()
