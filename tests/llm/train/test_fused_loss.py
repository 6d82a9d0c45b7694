"""The fused loss of a head equals the plain one."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.data.batches import IGNORED, Batch
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.model.packed_weights import PackedLinear
from llm.model.trainable import LoraConfig
from llm.runtime.device import autocast
from llm.train import fused_loss, losses
from tests.llm.model.test_packed_weights import BF16, FP32, needs_onednn

WORDS, WIDTH, TOKENS = 321, 16, 50


def next_token_loss(hidden: Tensor, head: nn.Module, targets: Tensor, **options: object) -> Tensor:
    return losses.next_token_loss(hidden, head, Batch(hidden, targets), **options)


SUMS = {
    "fused": next_token_loss,
    "to compile": partial(next_token_loss, chunk_loss=fused_loss.loss_to_compile),
    "plain": lambda hidden, head, targets: losses.cross_entropy(head(hidden), targets),
}
FUSED = ("fused", "to compile")


def example(scale: float = 1.0, seed: int = 0) -> tuple[Tensor, nn.Linear, Tensor]:
    """Hidden states (2, TOKENS, WIDTH), a head, and targets, every seventh ignored."""
    torch.manual_seed(seed)
    head = nn.Linear(WIDTH, WORDS, bias=False)
    targets = torch.randint(WORDS, (2, TOKENS))
    targets.flatten()[::7] = IGNORED
    return (torch.randn(2, TOKENS, WIDTH) * scale).requires_grad_(), head, targets


def step(kind: str, precision: object, hidden: Tensor, head: nn.Linear, targets: Tensor) -> tuple[Tensor, ...]:
    """The mean loss and its gradients."""
    with autocast(precision):
        loss = SUMS[kind](hidden, head, targets) / 43  # not a power of 2, which would hide rounding errors
    return loss.detach(), *torch.autograd.grad(loss, (hidden, head.weight))


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("cached", [fused_loss.CPU_CHUNK, 3 * WORDS, 1])
@pytest.mark.parametrize("kind", FUSED)
def test_loss_and_gradients_equal_the_plain_ones(monkeypatch, scale, cached, kind):
    monkeypatch.setattr(fused_loss, "CPU_CHUNK", cached)  # all rows at once, three or one
    found, expected = (step(kind, FP32, *example(scale)) for kind in (kind, "plain"))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("seed", range(3))
def test_in_bf16_they_are_as_exact_as_the_plain_ones(seed, kind):
    exact = step("plain", FP32, *example(seed=seed))
    for fused, plain, true in zip(
        step(kind, BF16, *example(seed=seed)), step("plain", BF16, *example(seed=seed)), exact, strict=True
    ):
        assert fused.dtype == true.dtype
        off, plain_off = ((found - true).norm() / true.norm() for found in (fused, plain))
        assert off < 0.01
        assert off < 1.2 * plain_off + 1e-4


def test_gradients_equal_finite_differences():
    hidden, head, targets = example()
    hidden = hidden.detach().flatten(0, 1).double().requires_grad_()
    head.double()
    counts = targets.flatten() != IGNORED
    fine = torch.autograd.gradcheck(
        lambda h, w: fused_loss.summed_cross_entropy(h[counts], of_weight(w), targets.flatten()[counts]),
        (hidden, head.weight),
        eps=1e-3,  # the loss is summed in fp32
        atol=2e-2,
        nondet_tol=0.0,
        fast_mode=True,
    )
    assert fine


def of_weight(weight: Tensor) -> nn.Linear:
    """A head whose weight is part of the graph."""
    head = nn.Linear(WIDTH, WORDS, bias=False)
    del head.weight
    head.weight = weight
    return head


def test_a_gradient_does_not_depend_on_whether_the_other_is_needed():
    hidden, head, targets = example()
    head.weight.requires_grad_(False)
    of_hidden = torch.autograd.grad(next_token_loss(hidden, head, targets), hidden)[0]
    head.weight.requires_grad_(True)
    assert torch.equal(of_hidden, torch.autograd.grad(next_token_loss(hidden, head, targets), hidden)[0])
    of_weight = torch.autograd.grad(next_token_loss(hidden.detach(), head, targets), head.weight)[0]
    assert torch.equal(of_weight, torch.autograd.grad(next_token_loss(hidden, head, targets), head.weight)[0])


@pytest.mark.parametrize(("precision", "off"), [(FP32, 0.0), (BF16, 1e-5)])  # bf16: matrix products of other widths
def test_without_gradients_the_loss_is_the_same(precision, off):
    with autocast(precision):
        expected = next_token_loss(*example()).detach()
        with torch.no_grad():
            loss = next_token_loss(*example())
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected, rtol=off, atol=0.0)


@needs_onednn
def test_a_packed_head_computes_its_own_logits():
    hidden, head, targets = example()
    packed, kept = PackedLinear(head, 2 * TOKENS), []
    with torch.no_grad(), autocast(BF16):
        expected = next_token_loss(hidden, head, targets)
        packed.register_forward_hook(lambda _module, _inputs, logits: kept.append(logits))
        loss = next_token_loss(hidden, packed, targets)
        wrong = next_token_loss(
            hidden, packed, torch.where(targets == IGNORED, targets, WORDS - 1 - targets)
        )  # control
    assert [logits.shape for logits in kept[:1]] == [((targets != IGNORED).sum(), WORDS)]
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0.0)
    assert (wrong - expected).abs() > 1e-2 * expected


@pytest.mark.parametrize("kind", FUSED)
def test_logits_whose_exponentials_overflow_have_a_finite_loss(kind):
    hidden, head, targets = example(scale=400.0)
    loss, *gradients = step(kind, FP32, hidden, head, targets)
    assert head(hidden).abs().max() > 100  # exp(100) overflows fp32
    torch.testing.assert_close(loss, step("plain", FP32, hidden, head, targets)[0], rtol=1e-5, atol=0.0)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("kind", ["to compile", "fused"])
def test_chunks_have_a_power_of_2_chunk_loss_and_fit_into_the_limit(monkeypatch, kind):
    monkeypatch.setattr(fused_loss, "CPU_CHUNK", 50 * WORDS + 1)
    seen = []

    def chunk_loss(logits: Tensor, targets: Tensor, **_: bool) -> Tensor:
        seen.append(logits.shape)
        return fused_loss.loss_to_compile(logits, targets)

    if kind == "fused":
        monkeypatch.setattr(fused_loss, "_chunk_loss", chunk_loss)
    hidden, head, targets = example()
    targets[targets == IGNORED] = 0
    next_token_loss(hidden, head, targets, chunk_loss=chunk_loss if kind == "to compile" else None)
    assert seen == [(32, WORDS)] * 3 + [(2 * TOKENS - 96, WORDS)]


@pytest.mark.parametrize("ignored", [True, False])
def test_the_chunk_loss_gets_only_targets_that_are_not_ignored(ignored):
    hidden, head, targets = example()
    if not ignored:
        targets[targets == IGNORED] = 0
    seen = []

    def chunk_loss(logits: Tensor, counting: Tensor) -> Tensor:
        seen.append(counting)
        return fused_loss.loss_to_compile(logits, counting)

    next_token_loss(hidden, head, targets, chunk_loss=chunk_loss)
    assert [found.tolist() for found in seen] == [targets[targets != IGNORED].tolist()]


@pytest.mark.parametrize("kind", FUSED)
def test_if_all_targets_are_ignored_loss_and_gradients_are_zero(kind):
    hidden, head, targets = example()
    loss, of_hidden, of_weight = step(kind, FP32, hidden, head, torch.full_like(targets, IGNORED))
    assert loss == 0
    assert not of_hidden.any()
    assert not of_weight.any()


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_hidden_state_that_is_not_finite_makes_the_loss_not_finite(bad, kind):
    hidden, head, targets = example()
    hidden.data[0, 1, 0] = bad
    with torch.no_grad():
        assert not SUMS[kind](hidden, head, targets).isfinite()
    assert not SUMS[kind](hidden, head, targets).isfinite()


def test_a_gpt_trains_to_the_same_weights_with_both_losses(model_config):
    weights = []
    ids = torch.randint(300, (4, 9), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids[:, :-1], ids[:, 1:])
    for fused in (True, False):
        torch.manual_seed(1)
        model = GPT(model_config())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            (losses.next_token_of(fused)(model, batch)["loss"] / batch.count).backward()
            optimizer.step()
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-7)
    torch.manual_seed(1)
    start = torch.cat([p.detach().flatten() for p in GPT(model_config()).parameters()])
    assert (weights[0] - start).abs().max() > 1e-3


def test_the_adapter_of_a_head_is_used(model_config):
    torch.manual_seed(1)
    model = GPT(model_config(tie_head=False))
    add_lora(model, LoraConfig(2, 4.0, "alpha/rank"), seed=1)
    nn.init.normal_(model.lm_head.lora_B)
    ids = torch.randint(300, (2, 8))
    batch = Batch(ids, ids)
    assert torch.equal(losses.fused_next_token(model, batch)["loss"], losses.next_token(model, batch)["loss"])


def test_the_adapter_of_a_head_is_used_without_gradients(model_config):
    torch.manual_seed(1)
    model = GPT(model_config(tie_head=False)).eval()
    add_lora(model, LoraConfig(2, 4.0, "alpha/rank"), seed=1)
    ids = torch.randint(300, (2, 8))
    batch = Batch(ids, ids)
    with torch.no_grad():
        unmoved = losses.fused_next_token(model, batch)["loss"]
        nn.init.normal_(model.lm_head.lora_B)
        found, expected = (loss(model, batch)["loss"] for loss in (losses.fused_next_token, losses.next_token))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
    assert (unmoved - expected).abs() > 1e-4 * expected  # control


def test_the_bias_of_a_head_is_used():
    hidden, _, targets = example()
    head = nn.Linear(WIDTH, WORDS)
    nn.init.normal_(head.bias)
    assert torch.equal(next_token_loss(hidden, head, targets), losses.cross_entropy(head(hidden), targets))


def test_the_fused_loss_calls_no_cross_entropy_that_keeps_logits(monkeypatch, model_config):
    monkeypatch.setattr(F, "cross_entropy", None)
    ids = torch.randint(300, (2, 8))
    losses.next_token_of(fused=True)(GPT(model_config()), Batch(ids, ids))["loss"].backward()


@pytest.mark.parametrize("precision", [FP32, BF16])
def test_the_gradient_of_a_tied_embedding_is_added_in_place(precision):
    _, head, targets = example()
    ids = torch.randint(WORDS, targets.shape)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiled:
        with autocast(precision):
            loss = next_token_loss(F.embedding(ids, head.weight), head, targets)
        loss.backward()
    both = [event.name for event in profiled.events() if event.input_shapes[:2] == [[WORDS, WIDTH], [WORDS, WIDTH]]]
    sums = [name for name in both if name.startswith("aten::add")]
    assert sums == ["aten::add_"], "another sum takes memory for a third gradient"
