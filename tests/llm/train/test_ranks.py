"""Several ranks compute what one process computes (gloo, on this machine)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm.common.ranks import TIMEOUT
from tests.llm.train import ranked
from tests.ports import reserved_port

ROOT = Path(__file__).parents[3]


def launched(out: Path, ranks: int, sharding: str, module: Any = ranked) -> dict[str, Any]:
    """The results of `ranked`, or of another module like it, on so many ranks."""
    words = [sys.executable, "-m", module.__name__, str(out), str(ranks), sharding]
    processes = []
    with reserved_port() as port:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", TIMEOUT: "120"}
        for rank in range(ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
            environment = os.environ | shared | own
            processes.append(subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
        said = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * ranks, said
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
