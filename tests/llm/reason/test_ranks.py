"""Several ranks compute what one process computes, also where a model answers (gloo, on this machine)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.llm.reason import ranked
from tests.llm.train.test_ranks import alone, check_close, launched


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", pytest.param("fsdp", marks=pytest.mark.long)])
def test_two_ranks_compute_what_one_computes(tmp_path: Path, sharding: str) -> None:
    check_close(launched(tmp_path / "out.json", 2, sharding, ranked), alone(ranked))


@pytest.mark.long
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_four_ranks_and_a_second_launch(tmp_path: Path, sharding: str) -> None:
    first = launched(tmp_path / "one.json", 4, sharding, ranked)
    check_close(first, alone(ranked))
    assert launched(tmp_path / "two.json", 4, sharding, ranked) == first  # every bit
