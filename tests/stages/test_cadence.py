"""How often a training stage evaluates changes its curves, and no weight."""

from __future__ import annotations

import pytest

from tests.stages.project import Project

STAGES = [
    "check",
    *(f"download {item}" for item in ("corpus", "spam", "instructions")),
    "tokenizer",
    *(f"tokenize_{item}" for item in ("corpus", "spam", "instructions")),
    "pretrain",
    "import_gpt2 gpt2-sample",
    "finetune_spam",
    "finetune_instruct",
]
TRAINING = {"pretrain": "pretrain", "finetune_spam": "spam", "finetune_instruct": "instruct"}  # and its model


@pytest.mark.long
def test_evaluating_at_every_step_or_never_gives_the_same_weights(tmp_path):
    project = Project.small(
        tmp_path / "project", model={"dropout": 0.1}, **{stage: {"eval_every": 1000} for stage in TRAINING}
    )
    for stage in ("finetune_spam", "finetune_instruct"):
        project.set(**{stage: {"dropout": 0.1}})
    for stage in STAGES:
        module, *item = stage.split()
        project.run(f"stages.{module}", *item)
    weights = [f"models/{model}/model.safetensors" for model in TRAINING.values()]
    seldom, curves = project.bytes(*weights), project.bytes(*(f"reports/{stage}/loss.csv" for stage in TRAINING))
    assert len(seldom) == len(curves) == 3

    project.set(**{stage: {"eval_every": 1} for stage in TRAINING})
    for stage in TRAINING:
        project.run(f"stages.{stage}")
    assert project.bytes(*weights) == seldom
    for name, curve in curves.items():
        assert len((project.folder / name).read_bytes().splitlines()) > len(curve.splitlines()) + 3
