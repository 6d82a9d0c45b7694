"""All that a GPU computes, on a device that stands for one (tests/llm/gpu_run.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "gpu_run.py"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_gpu_computes_what_the_cpu_does(tmp_path: Path, kind: str) -> None:
    command = [sys.executable, str(PROGRAM), kind, str(tmp_path)]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout.splitlines()[-1]) == []
