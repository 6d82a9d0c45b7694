"""Several ranks compute what one process computes (gloo, on this machine)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.llm.train import ranked
from tests.ranks import run_ranks


def launched(out: Path, ranks: int, sharding: str, module: Any = ranked) -> dict[str, Any]:
    """The results of `ranked`, or of another module like it, on so many ranks."""
    run_ranks([module.__name__, str(out), str(ranks), sharding], ranks)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def alone(module: Any = ranked) -> dict[str, Any]:
    return {name: module.train(name, replace(ranked.FP32, fused_loss=False)) for name in module.CASES}


def check_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, one in found.items():
        for row, wanted in zip(one["rows"], expected[name]["rows"], strict=True):
            assert row == pytest.approx(wanted, abs=1e-5), name
        assert one["rows"][-1] != one["rows"][0]
        assert one["norms"] == pytest.approx(expected[name]["norms"], rel=1e-5), name
        assert len(one["norms"]) == ranked.STEPS


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_ranks_compute_what_one_computes(tmp_path: Path, sharding: str) -> None:
    check_close(launched(tmp_path / "out.json", 2, sharding), alone())


@pytest.mark.long
@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_four_ranks_and_a_second_launch(tmp_path: Path, sharding: str) -> None:
    first = launched(tmp_path / "one.json", 4, sharding)
    check_close(first, alone())
    assert launched(tmp_path / "two.json", 4, sharding) == first  # every bit
