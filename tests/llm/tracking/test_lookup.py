"""What MLflow tells of the run that made an artifact, also where the run is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm.tracking import lookup, spool

ABOUT = {"dvc.md5": "1.dir", "path": "models/a"}


def test_a_version_whose_run_was_deleted_for_good_has_no_maker(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = client.create_experiment(spool.EXPERIMENT, (tmp_path / "mlartifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.create_registered_model("a")
    client.create_model_version("a", "models/a", run, ABOUT)
    found = lookup.maker(tmp_path, "models/a", "1.dir")
    assert found is not None
    assert found.run_id == run
    client._tracking_client.store._hard_delete_run(run)  # as `mlflow gc`
    assert lookup.maker(tmp_path, "models/a", "1.dir") is None
    assert lookup.run(tmp_path, run) is None
    assert capsys.readouterr().err == ""
