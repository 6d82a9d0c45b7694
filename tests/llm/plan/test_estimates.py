"""Which run of the past an estimate is taken from."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from llm.common import files, params
from llm.plan.estimates import Estimator, Expected
from llm.plan.stages import Planned
from llm.plan.work import work
from llm.tracking import record
from llm.tracking.record import Past
from stages.schema import AllParams

ROOT = Path(__file__).parents[3]
SECONDS, MEMORY = 104.0, 800_000_000
KEYS = {
    "finetune_spam": ("seed", "runtime", "finetune_spam", "download.spam"),
    "finetune_instruct": ("seed", "runtime", "finetune_instruct", "download.instructions"),
    "respond": ("seed", "runtime", "respond"),
    "evaluate_with_judge": ("judge",),
}


@pytest.fixture(autouse=True)
def recorded(tmp_path, monkeypatch) -> dict[str, Any]:
    """The parameters with which each stage ran once."""
    shutil.copytree(ROOT / "reports/tokenize", tmp_path / "reports/tokenize")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    values = params.load()
    for stage in KEYS:
        record.add(tmp_path, stage, Past(0.0, values, SECONDS, MEMORY, {}))
    return values


def expect(stage: str, now: dict[str, Any]) -> Expected:
    planned = Planned(stage, ("code",), False, (), KEYS[stage])
    estimator = Estimator(Path.cwd(), params.parse(AllParams, now), _speed=1e9, _now=now)
    return estimator.expect([planned])[0]


def changed(values: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {key: value | more.get(key, {}) if isinstance(value, dict) else value for key, value in values.items()}


@pytest.mark.parametrize("stage", KEYS)
def test_the_run_with_the_same_parameters(recorded, stage):
    now = changed(recorded, pretrain={"epochs": 50}, finetune_spam={"lr": 0.5})  # no work of these stages
    found = expect(stage, now)
    assert (found.estimate.seconds, found.estimate.memory) == (SECONDS, MEMORY)
    assert found.basis.startswith("the run of ")
    assert "times" not in found.basis


@pytest.mark.parametrize("stage", ["finetune_spam", "finetune_instruct", "respond"])
def test_a_deeper_model_takes_longer_though_the_stage_has_the_same_parameters(recorded, stage):
    now = changed(recorded, model={"n_layer": 24})
    assert recorded["model"]["n_layer"] == 4
    found = expect(stage, now)
    assert 3 * SECONDS < found.estimate.seconds < 6.2 * SECONDS
    assert found.basis.partition(", times ")[2]
    more = work(stage, params.parse(AllParams, now)).memory - work(stage, params.parse(AllParams, recorded)).memory
    assert more > 0
    assert found.estimate.memory == MEMORY + more


def test_a_wider_embedding_takes_more_memory_though_the_work_is_the_same(recorded):
    """The classifier has no head over the vocabulary."""
    found = expect("finetune_spam", changed(recorded, tokenizer={"vocab_size": 4096}))
    assert found.estimate.seconds == SECONDS
    assert found.estimate.memory > MEMORY


def test_of_several_runs_the_one_with_the_same_work_counts(recorded):
    record.add(Path.cwd(), "respond", Past(1.0, changed(recorded, model={"n_layer": 24}), 600.0, MEMORY, {}))
    assert expect("respond", recorded).estimate.seconds == SECONDS


def test_a_run_of_another_version_is_no_measure(recorded):
    files.write_text(".work/runs/respond.jsonl", "")
    old = {key: value for key, value in recorded.items() if key != "model"}
    record.add(Path.cwd(), "respond", Past(1.0, old, SECONDS, MEMORY, {}))
    assert "GFLOP/s" in expect("respond", recorded).basis


@pytest.mark.parametrize("stage", ["finetune_spam", "finetune_instruct", "respond"])
def test_a_starting_point_that_is_a_file_gives_no_estimate(recorded, stage):
    start = {"init_from": "params.yaml"}
    everything = params.parse(AllParams, changed(recorded, finetune_spam=start, finetune_instruct=start))
    assert work(stage, everything) is None
