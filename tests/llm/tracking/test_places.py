"""The artifacts of a project that was moved or copied are those beside its database."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from llm.tracking import places


@pytest.fixture
def old(empty_database: Path, tmp_path: Path) -> Path:
    """A project with a run that has an artifact."""
    folder = tmp_path / "old pröject"
    folder.mkdir()
    shutil.copyfile(empty_database, folder / "mlflow.db")
    client = MlflowClient(uri := f"sqlite:///{folder}/mlflow.db")
    where = places.beside(folder, uri)
    assert where == folder / "mlartifacts"
    run = client.create_run(client.create_experiment("e", where.as_uri()))
    artifact = where / run.info.run_id / "artifacts" / "a.txt"  # by hand: a client remembers where it wrote
    artifact.parent.mkdir(parents=True)
    artifact.write_text("text")
    return folder


def artifacts(folder: Path) -> list[str]:
    """Those of all runs, after one more is logged."""
    places.follow(folder, uri := f"sqlite:///{folder}/mlflow.db")
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    client.log_text(run.info.run_id, "text", "b.txt")
    return sorted(one.path for one in client.list_artifacts(run.info.run_id))


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "mlartifacts").rglob("*.txt"))


def test_a_moved_project_has_its_artifacts_and_writes_no_others_into_the_old_place(old: Path, tmp_path: Path) -> None:
    new = old.rename(tmp_path / "new")
    assert artifacts(new) == files_in(new) == ["a.txt", "b.txt"]
    assert not old.exists()


def test_a_copy_leaves_those_of_the_original_alone(old: Path, tmp_path: Path) -> None:
    new = Path(shutil.copytree(old, tmp_path / "new"))
    assert artifacts(new) == files_in(new) == ["a.txt", "b.txt"]
    assert files_in(old) == ["a.txt"]


def test_a_place_that_somebody_chose_stays(old: Path, tmp_path: Path) -> None:
    (new := tmp_path / "new").mkdir()
    (old / "mlflow.db").rename(new / "mlflow.db")
    assert artifacts(new) == files_in(old) == ["a.txt", "b.txt"]
    assert not (new / "mlartifacts").exists()


def test_a_server_or_no_database_is_left_alone(tmp_path: Path) -> None:
    for uri in ("http://127.0.0.1:5000", "sqlite:///none.db"):
        places.follow(tmp_path, uri)
    (tmp_path / "empty.db").touch()
    places.follow(tmp_path, "sqlite:///empty.db")
    assert [path.name for path in tmp_path.iterdir()] == ["empty.db"]
