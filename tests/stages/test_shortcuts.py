"""The shortcuts of computing as the stages read them: other roundings and other random numbers, the same training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forks import Forks
from tests.stages.project import Project

BEFORE = ["check", *(f"download {item}" for item in ("corpus", "instructions"))]
BEFORE += ["tokenizer", *(f"tokenize_{item}" for item in ("corpus", "instructions"))]
PLAIN = {"model": {"dropout_random": "each"}, "runtime": {"fused_loss": False}}
FUSED = {**PLAIN, "runtime": {"fused_loss": True}}
PACKED = {**PLAIN, "model": {"dropout_random": "packed"}}
DROPOUT = {"model": {"dropout": 0.1}}


@pytest.mark.long
def test_shortcuts_reach_the_trainings_and_change_little(tmp_path: Path) -> None:
    project = Project.small(tmp_path / "project", finetune_instruct={"init_from": "models/pretrain"}, **DROPOUT)
    with Forks() as forks:

        def trained(stage: str, model: str, shortcuts: dict[str, dict[str, object]]) -> tuple[bytes, float]:
            """The weights, and the loss on the training split."""
            project.set(**shortcuts)
            ended = forks.run(project.folder, f"stages.{stage}")
            assert ended.code == 0, ended.err
            weights = (project.folder / "models" / model / "model.safetensors").read_bytes()
            return weights, project.metrics(stage)["train_loss"]

        for stage in BEFORE:
            module, *item = stage.split()
            assert forks.run(project.folder, f"stages.{module}", *item).code == 0
        fused, packed, plain = (trained("pretrain", "pretrain", way) for way in (FUSED, PACKED, PLAIN))
        assert plain == trained("pretrain", "pretrain", PLAIN)
        fused_answers, plain_answers = (trained("finetune_instruct", "instruct", way) for way in (FUSED, PLAIN))
    for (weights, loss), (others, other), within in [
        (fused, plain, 1e-3),
        (packed, plain, 0.05),
        (fused_answers, plain_answers, 1e-3),
    ]:
        assert weights != others
        assert loss == pytest.approx(other, rel=within)
