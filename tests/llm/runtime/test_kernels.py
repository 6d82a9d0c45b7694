"""Portable kernels: right results, and the same bytes on emulated CPUs of two vendors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm.runtime.device import RuntimeConfig
from llm.runtime.kernels import PINNED, pin

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tests/llm/runtime/portable_run.py"
CPUS = ("Haswell", "EPYC-Rome")  # of Intel and of AMD, both with AVX2 and without AVX512

PRODUCTS = """
import torch
from llm.runtime import kernels

def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

torch.manual_seed(0)
cases = [(7, 5, 3), (1, 192, 576), (480, 192, 768), (33, 64, 1), (1, 1, 1), (5, 0, 3), (0, 4, 3)]
for dtype in (torch.float32, torch.float64):
    plain = []
    inputs = []
    for M, K, N in cases:
        a, b, c = (torch.randn(*shape, dtype=dtype) for shape in ((M, K), (K, N), (N,)))
        g, h, i = (torch.randn(*shape, dtype=dtype) for shape in ((4, M, K), (4, K, N), (4, M, N)))
        inputs.append((a, b, c, g, h, i))
    def results():
        for a, b, c, g, h, i in inputs:
            yield a @ b
            yield a.t().contiguous().t() @ b.t().contiguous().t()
            yield torch.addmm(c, a, b)
            yield torch.addmm(a @ b, a, b, beta=0.5, alpha=2)
            yield g @ h
            yield torch.baddbmm(i, g, h, beta=2, alpha=0.5)
            yield torch.mv(a, b[:, 0]) if b.shape[1] else c
            yield torch.einsum("gmk,gkn->gmn", g, h)
    if dtype == torch.float64:
        after = list(results())
        assert all(r.dtype == dtype for r in after)
        for ours, (a, b, *_ ) in zip(after[::8], inputs):
            close(ours, (a[:, :, None] * b).sum(1))
        break
    before = list(results())
    kernels.use_portable()
    for ours, theirs in zip(results(), before, strict=True):
        close(ours, theirs)
    changed = sum(not torch.equal(ours, theirs) for ours, theirs in zip(results(), before))
    print(changed)
"""


def unpinned() -> dict[str, str]:
    """The environment without the variables of portable kernels."""
    return {key: value for key, value in os.environ.items() if PINNED.get(key) != value}


def run(code: list[str], *emulator: str, pinned: bool = True, **variables: str) -> str:
    environment = unpinned() | (PINNED if pinned else {}) | {"OMP_WAIT_POLICY": "PASSIVE"} | variables
    done = subprocess.run(
        [*emulator, sys.executable, *code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_portable_products_are_those_of_pytorch_up_to_rounding():
    assert int(run(["-c", PRODUCTS])) > 0  # other bits: the kernels were replaced


@pytest.mark.parametrize(
    ("change", "fine"),
    [({}, True), ({"precision": "bf16"}, False), ({"device": "cuda"}, False), ({"fused_loss": True}, False)],
)
def test_portable_is_for_fp32_on_cpus_without_the_fused_loss(change, fine):
    values = {"precision": "fp32", "device": "cpu", "threads": 1, "keep_pages": False, "fused_loss": False}
    found = [name for name, *_ in RuntimeConfig(**values | change, kernels="portable").problems()]
    assert found == ([] if fine else ["kernels"])
    assert list(RuntimeConfig(**values | change).problems()) == []


@pytest.mark.parametrize(
    ("text", "pins"),
    [
        ("runtime:\n  kernels: portable\n", True),
        ("runtime:\n  kernels: native\n", False),
        ("runtime: 1\n", False),
        ("no: [yaml", False),
        (None, False),
    ],
)
def test_variables_are_set_for_portable_kernels_only(text, pins, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in PINNED:
        monkeypatch.delenv(name, raising=False)
    if text is not None:
        Path("params.yaml").write_text(text)
    before = dict(os.environ)
    pin()
    assert dict(os.environ) == before  # torch is loaded
    monkeypatch.delitem(sys.modules, "torch")
    pin()
    assert dict(os.environ) == before | (PINNED if pins else {})
    assert unpinned() == before


@pytest.fixture(scope="module")
def native() -> dict[str, str]:
    return dict(json.loads(run([str(SCRIPT)])))


@pytest.mark.slow
@pytest.mark.parametrize("cpu", [pytest.param(CPUS[0], marks=pytest.mark.long), CPUS[1]])
def test_a_tiny_pipeline_has_the_same_bytes_on_another_cpu(native, cpu):
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("qemu-x86_64 is not installed (Debian: qemu-user)")
    assert json.loads(run([str(SCRIPT)], emulator, "-cpu", cpu)) == native


@pytest.mark.long
def test_native_kernels_differ_between_vendors():
    """The control: without portable kernels the emulated Intel CPU gives other bytes than the emulated AMD one."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("qemu-x86_64 is not installed (Debian: qemu-user)")
    found = [run([str(SCRIPT), "native"], emulator, "-cpu", cpu, pinned=False) for cpu in CPUS]
    assert found[0] != found[1]
