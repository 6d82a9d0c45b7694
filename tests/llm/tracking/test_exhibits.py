"""Figures and tables of the reports, once in each run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm.tracking import exhibits, figures

REPORTS = {
    "loss.csv": "step,train_loss,val_loss,lr\n0,3.0,3.1,0.1\n5,1.0,,0.1\n9,0.5,1.2,0.1\n",
    "samples.csv": "step,text\n0,a\n",
    "predictions.csv": "split,row,actual,predicted,p_ham,p_spam\ntrain,0,ham,ham,1,0\n"
    + "test,0,ham,ham,0.9,0.1\ntest,1,ham,spam,0.2,0.8\n",
    "calibration.csv": "split,confidence_from,confidence_to,n,mean_confidence,accuracy\ntest,0.5,1.0,2,0.85,0.5\n",
    "metrics.json": '{"loss": 1}',
    "responses.json": '[{"instruction": "a", "model_response": "b"}, {"instruction": "c", "model_response": "d"}]',
}


@pytest.fixture
def reports(tmp_path: Path) -> list[Path]:
    for name, text in REPORTS.items():
        (tmp_path / name).write_text(text)
    return [tmp_path / name for name in REPORTS]


def test_what_is_drawn(reports: list[Path]) -> None:
    drawn = {report.name: dict(figures.draw(report)) for report in reports if report.suffix == ".csv"}
    assert {name: list(found) for name, found in drawn.items()} == {
        "loss.csv": ["loss"],
        "samples.csv": [],
        "predictions.csv": ["confusion"],
        "calibration.csv": ["calibration"],
    }
    pixels = drawn["loss.csv"]["loss"]
    assert pixels.shape[2] == 3
    assert pixels.min() < 100
    assert pixels.max() == 255


def test_runs_have_them_once(client: Any, reports: list[Path], tmp_path: Path) -> None:
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    stage, parent = (client.create_run(experiment).info.run_id for _ in range(2))
    for _ in range(2):
        exhibits.show(client, {parent: "spam", stage: ""}, reports)
    for run, folder in [(stage, ""), (parent, "spam/")]:
        pictures = [f"{folder}figures/{name}.png" for name in ("calibration", "confusion", "loss")]
        assert [one.path for one in client.list_artifacts(run, f"{folder}figures")] == pictures
        table = client.load_table(experiment, f"{folder}figures_table.json", [run])
        assert table["figure"].tolist() == ["loss", "confusion", "calibration"]
        assert table["picture"][0]["type"] == "image"
    for run, name in [(stage, "responses_table.json"), (parent, "spam/responses_table.json")]:
        rows = client.load_table(experiment, name, [run])
        assert rows["model_response"].tolist() == ["b", "d"]
        assert list(rows.columns)[:2] == ["instruction", "model_response"]
    assert client.load_table(experiment, "predictions_table.json", [stage])["predicted"].tolist() == ["ham", "spam"]
    assert "spam/responses_table.json" in client.get_run(parent).data.tags["mlflow.loggedArtifacts"]
