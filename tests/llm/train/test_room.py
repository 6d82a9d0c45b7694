"""The room of a training on several ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from llm.common.errors import UserError
from llm.model import memory
from llm.plan import scale
from llm.runtime import machine
from llm.runtime.device import RuntimeConfig
from llm.train.room import room_for
from tests import tiny
from tests.llm.tiny_run import MODEL, TRAIN

GPU = RuntimeConfig(precision="bf16", device="cuda", threads=1, keep_pages=False, fused_loss=True)


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "rows", "accumulates"),
    [(8, None, 1, 8, False), (8, 2, 1, 2, True), (8, None, 3, 3, False), (8, 2, 2, 2, True), (8, 4, 2, 4, False)],
)
def test_rows_are_those_of_a_rank(batch: int, micro: int | None, ranks: int, rows: int, accumulates: bool) -> None:
    config = replace(TRAIN, batch_size=batch, micro_batch_size=micro)
    room = room_for(config, MODEL, replace(tiny.FP32, ranks=ranks), 8)
    assert (room.rows, room.accumulates) == (rows, accumulates)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_a_large_model_needs_on_each_rank_what_the_plan_says(sharding: Literal["ddp", "fsdp"]) -> None:
    shape = scale.model("7B", 1024)
    room = memory.Training(shape, replace(GPU, ranks=8, sharding=sharding), 4, 1024)
    planned = scale.rank_bytes(shape, sharding, 8, 4, 1024).total
    copies = 2 * memory.parameters(shape)  # of the weights in bf16, which the plan leaves out
    assert 0.95 < room.memory / (planned + copies) < 1.05


def test_ranks_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def check(**runtime: Any) -> None:
        memory.check_training("pretrain", replace(room, runtime=replace(room.runtime, **runtime)), tmp_path, 1, None)

    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # as torch's launcher does
    room = room_for(replace(TRAIN, batch_size=8), MODEL, replace(tiny.FP32, ranks=2), 8)
    monkeypatch.setattr(machine, "available", lambda _device: room.memory)
    with pytest.raises(UserError, match=r"micro_batch_size: training on 2 ranks needs about "):
        check()
    check(device="cuda")
    check(ranks=1)
