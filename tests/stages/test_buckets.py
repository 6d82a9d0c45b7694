"""`finetune_instruct.bucket_batches` as its stage reads it: as many updates, on less padding, to another model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.forks import Forks
from tests.stages.project import Project

BEFORE = ["check", *(f"download {item}" for item in ("corpus", "instructions"))]
BEFORE += ["tokenizer", *(f"tokenize_{item}" for item in ("corpus", "instructions")), "pretrain"]


@pytest.mark.slow
def test_buckets_pad_less_and_null_is_none(forks: Forks, tmp_path: Path) -> None:
    project = Project.small(tmp_path / "project", finetune_instruct={"init_from": "models/pretrain"})
    seen, curves, weights = {}, {}, {}
    for stage in BEFORE:
        module, *item = stage.split()
        assert forks.run(project.folder, f"stages.{module}", *item).code == 0
    for batches in (None, 1, 5, 10**30):
        project.set(finetune_instruct={"bucket_batches": batches})
        ended = forks.run(project.folder, "stages.finetune_instruct")
        assert ended.code == 0, ended.err
        seen[batches] = project.metrics("finetune_instruct")["tokens_seen"]
        curves[batches] = (project.folder / "reports/finetune_instruct/loss.csv").read_text().splitlines()
        weights[batches] = (project.folder / "models/instruct/model.safetensors").read_bytes()
    assert seen[None] == seen[1] > seen[5] > seen[10**30]  # a batch is as wide as its longest row, in whatever order
    assert {line.partition(",")[0] for line in curves[None]} == {line.partition(",")[0] for line in curves[5]}
    assert weights[None] != weights[5]
