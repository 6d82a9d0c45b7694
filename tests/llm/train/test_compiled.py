"""Compiled training passes: loss and gradients equal plain ones, evaluations do not change, results repeat."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.common.errors import RESOURCES, UserError
from llm.data.batches import Batch
from llm.model.gpt import GPT
from llm.train import compiled, fused_loss, losses
from llm.train.compiled import COMPILERS, CompiledNextToken
from tests.llm.tiny_run import MODEL

needs_compiler = pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler here")
IDS = torch.randint(MODEL.vocab_size, (3, 8), generator=torch.Generator().manual_seed(0))
BATCH = Batch(IDS[:, :-1], IDS[:, 1:])
FUSED = True


def model(dropout: float = 0.0, attention: str = "sdpa", tie_head: bool = True) -> GPT:
    torch.manual_seed(1)
    return GPT(replace(MODEL, dropout=dropout, attention=attention, tie_head=tie_head))


def step(gpt: GPT, loss: object) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and all gradients of a training pass."""
    gpt.train()
    gpt.zero_grad()
    torch.manual_seed(2)
    total = loss(gpt, BATCH)["loss"]
    total.backward()
    return total.item(), {name: p.grad.clone() for name, p in gpt.named_parameters()}


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("attention", "fused"), [("sdpa", True), ("eager", True), ("sdpa", False)])
def test_loss_and_gradients_equal_those_of_a_plain_pass(attention, fused):
    gpt = model(attention=attention)
    plain, gradients = step(gpt, losses.next_token)
    compiled, others = step(gpt, CompiledNextToken(gpt, fused))
    assert compiled == pytest.approx(plain, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    gpt.transformer.h[0].mlp.c_proj.weight.data *= 5
    changed, _ = step(gpt, CompiledNextToken(gpt, fused))
    assert changed != pytest.approx(plain, rel=1e-6)  # control: it uses the current weights


@needs_compiler
@pytest.mark.slow
def test_dropout_of_compiled_passes_depends_on_the_seed():
    gpt = model(dropout=0.5)
    first, gradients = step(gpt, CompiledNextToken(gpt, FUSED))
    again, others = step(gpt, CompiledNextToken(gpt, FUSED))
    assert again == first != step(model(), losses.next_token)[0]
    assert all(torch.equal(others[name], gradient) for name, gradient in gradients.items())


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)]
)  # bf16: one unit in the last place
def test_the_compiled_chunk_loss_equals_the_uncompiled_one(dtype, off):
    torch.manual_seed(0)
    logits, targets = (5 * torch.randn(20, 128)).to(dtype)[:, :99], torch.randint(99, (20,))
    found, expected = logits.clone(), logits.clone()
    loss = torch.compile(fused_loss.loss_to_compile, dynamic=False)(found, targets)
    torch.testing.assert_close(loss, fused_loss.loss_to_compile(expected, targets), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(found, expected, rtol=off, atol=1e-7)
    assert not torch.equal(found, logits)


@needs_compiler
def test_training_passes_call_the_compiled_chunk_loss():
    gpt = model().train()
    loss, seen = CompiledNextToken(gpt, FUSED), []
    loss._blocks = gpt.transformer.h  # uncompiled

    def of_logits(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(logits.shape)
        return fused_loss.loss_to_compile(logits, targets)

    loss._chunk_loss = of_logits
    total = loss(gpt, BATCH)["loss"]
    assert seen == [(BATCH.targets.numel(), MODEL.vocab_size)]
    torch.testing.assert_close(total, losses.next_token(gpt, BATCH)["loss"])


@needs_compiler
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_the_gradient_of_the_embedding_equals_that_of_plain_passes(tied, fused):
    gpt = model(tie_head=tied).train()
    loss = CompiledNextToken(gpt, fused)
    loss._blocks, loss._chunk_loss = (
        gpt.transformer.h,
        fused_loss.loss_to_compile,
    )  # uncompiled
    gradients = []
    for passes in (losses.next_token, loss):
        gpt.zero_grad()
        for ids in torch.tensor([[1, 1, 2, 3], [3, 5, 1, 19]]):  # gradients of two micro-batches add up
            passes(gpt, Batch(ids[None, :-1], ids[None, 1:]))["loss"].backward()
        gradients.append(gpt.transformer.wte.weight.grad)
    torch.testing.assert_close(*gradients)  # compares the layouts too
    assert (gradients[0][7] != 0).any() == tied  # a token that is in no input


@needs_compiler
@pytest.mark.parametrize("tied", [True, False])
def test_only_a_tied_embedding_has_a_sparse_gradient(tied):
    gpt = model(tie_head=tied).train()
    loss, seen = CompiledNextToken(gpt, FUSED), []
    loss._blocks, loss._chunk_loss = gpt.transformer.h, fused_loss.loss_to_compile  # uncompiled
    below = gpt.transformer.embed

    def watched(*arguments: object, **options: object) -> torch.Tensor:
        states = below(*arguments, **options)
        (gradient,) = torch.autograd.grad(states.sum(), gpt.transformer.wte.weight, retain_graph=True)
        seen.append(gradient.is_sparse)
        return states

    gpt.transformer.embed = watched
    loss(gpt, BATCH)
    assert seen == [tied]


@needs_compiler
def test_evaluations_and_the_model_do_not_change():
    gpt = model()
    names = list(gpt.state_dict())
    loss = CompiledNextToken(gpt, FUSED)
    gpt.eval()
    loss._blocks, loss._chunk_loss = [None], None  # a training pass would fail
    assert torch.equal(loss(gpt, BATCH)["loss"], losses.next_token_of(FUSED)(gpt, BATCH)["loss"])
    assert list(gpt.state_dict()) == names
    assert type(gpt.transformer.h[0]).__name__ == "Block"


def test_a_missing_compiler_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"pretrain\.compile: no C\+\+ compiler") as caught:
        CompiledNextToken(model(), FUSED)
    assert caught.value.code == RESOURCES


def run(script: str, **variables: str) -> str:
    command, root = [sys.executable, "-c", script], Path(__file__).parents[3]
    return subprocess.run(
        command, cwd=root, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


CHUNK = (torch.linspace(-3, 3, 40).view(2, 20), torch.tensor([3, 19]))
COMPILED_CHUNK = """
from tests.llm.train.test_compiled import CHUNK, CompiledNextToken, model
print(CompiledNextToken(model(), True)._chunk_loss(*CHUNK).item())
"""


@needs_compiler
@pytest.mark.slow
def test_code_compiled_for_other_instruction_sets_is_not_taken(tmp_path):
    expected = fused_loss.loss_to_compile(CHUNK[0].clone(), CHUNK[1]).item()
    widest = torch.backends.cpu.get_cpu_capability()
    for capability in (widest, {"AVX512": "avx2"}.get(widest, "default")):
        changed = {"ATEN_CPU_CAPABILITY": capability.lower(), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        command, root = [sys.executable, "-c", COMPILED_CHUNK], Path(__file__).parents[3]
        done = subprocess.run(
            command, cwd=root, env=os.environ | changed, stdout=subprocess.PIPE, text=True, check=True
        )
        assert float(done.stdout) == pytest.approx(expected, rel=1e-6)
    assert len(list(tmp_path.iterdir())) == 2


FAILING = """
from tests.llm.train.test_compiled import CompiledNextToken, UserError, model, step
gpt = model()
try:
    step(gpt, CompiledNextToken(gpt, True))
except UserError as error:
    print(error.code, error)
"""
BROKEN = """#!/bin/sh
test "$1" = --version && exec g++ --version
echo 'x.h:1: fatal error: Python.h: No such file or directory' >&2
exit 1
"""


@pytest.mark.slow
def test_what_a_failing_compiler_said_is_in_the_error_line(tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text(BROKEN)
    compiler.chmod(0o755)
    said = run(FAILING, CXX=str(compiler), TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "cache"))
    what = "params.yaml: pretrain.compile: PyTorch's compiler failed: x.h:1: fatal error: Python.h: No such file"
    assert said.startswith(f"{RESOURCES} {what}")
    assert f"or remove {tmp_path / 'cache'}" in said


def test_the_cache_is_named_after_the_cpu(monkeypatch, tmp_path):
    def folder(flags: list[str]) -> Path:
        monkeypatch.setattr(compiled, "cpu_flags", lambda: flags)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        compiled.use_cache_of_this_cpu()
        compiled.use_cache_of_this_cpu()  # the second time changes nothing
        return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])

    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    first, other = folder(["fma", "avx512f"]), folder(["fma", "avx2"])
    assert first.parent == other.parent == tmp_path
    assert first != other
    assert folder(["avx512f", "fma"]) == first
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    assert folder(["avx512f", "fma"]) != first
