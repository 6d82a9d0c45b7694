"""The loss of GRPO against plain loops over rows and tokens, and what each of its settings changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm.data.batches import IGNORED, Batch
from llm.model.gpt import GPT
from llm.reason import grpo
from llm.reason.config import RolloutConfig
from llm.reason.grpo import Answers, GrpoLoss
from tests import tiny

CONFIG = replace(tiny.REWARDS, clip=(0.2, 0.3))
LONGEST = 5  # tokens of an answer
LENGTHS = torch.tensor([1.0, 3.0, 5.0, 2.0])
AVERAGES = ("tokens", "answers", "constant")


def model_of(seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(replace(tiny.MODEL, vocab_size=12, init="torch"))


def answers(model: nn.Module, average: Any = "tokens", shift: float = 0.0, reference: Tensor | None = None) -> Answers:
    """Four answers to prompts of three tokens; `shift` moves the old log-probabilities away from those of `model`."""
    ids = torch.randint(12, (4, 8), generator=torch.Generator().manual_seed(1))
    targets = ids[:, 1:].clone()
    targets[:, :2] = IGNORED
    for row, length in enumerate(LENGTHS.int().tolist()):
        targets[row, 2 + length :] = IGNORED
    batch = Batch(ids[:, :-1], targets)
    with torch.no_grad():
        old, _ = grpo.log_probabilities(model, batch, 1.0)
    factors, total = grpo.factors(LENGTHS, average, LONGEST)
    signs = torch.linspace(-1, 1, 7)
    return Answers(
        batch.inputs,
        targets,
        advantages=torch.tensor([1.5, -0.5, -0.25, 2.0]),
        factors=factors,
        old=old + shift * signs,
        reference=reference,
        total=total,
    )


def gradients(model: nn.Module, loss: Tensor) -> Tensor:
    found = torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def mean_loss(model: nn.Module, batch: Answers, config: RolloutConfig = CONFIG) -> Tensor:
    return GrpoLoss(config)(model, batch)["loss"] / batch.count


# Advantages


def test_advantages_compare_with_the_group() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    by_mean = grpo.advantages(rewards, "mean")
    assert by_mean[0].tolist() == [0.75, -0.25, -0.25, -0.25]
    by_std = grpo.advantages(rewards, "std")
    assert by_std[0].tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=1e-3)  # the deviation is 0.5
    assert not by_mean[1:].any()
    assert not by_std[1:].any()


@pytest.mark.parametrize("reward", [0.1, 0.2, 0.3, 1.05, 1.1, 1.2, 1.3])
@pytest.mark.parametrize("group", [10, 16, 24])
@pytest.mark.parametrize("kind", ["std", "mean"])
def test_equal_rewards_have_no_advantage_at_all(reward: float, group: int, kind: Any) -> None:
    """Their mean may differ from them in the last bit, and AdamW makes a whole update of the smallest gradient."""
    assert not grpo.advantages(torch.full((2, group), reward), kind).any()


# The loss at the weights that wrote the answers


@pytest.mark.parametrize("average", AVERAGES)
def test_the_gradient_is_that_of_a_plain_policy_gradient(average: str) -> None:
    model = model_of()
    batch = answers(model, average)
    plain = torch.zeros(())
    for row, length in enumerate(LENGTHS.int().tolist()):
        logs = torch.log_softmax(model(batch.inputs[row : row + 1])[0], dim=-1)
        tokens = torch.stack([logs[2 + i, batch.targets[row, 2 + i]] for i in range(length)])
        weight = {"tokens": 1 / LENGTHS.sum(), "answers": 1 / (4 * length), "constant": 1 / (4 * LONGEST)}[average]
        plain = plain - batch.advantages[row] * tokens.sum() * weight
    torch.testing.assert_close(gradients(model, mean_loss(model, batch)), gradients(model, plain), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("average", AVERAGES)
def test_micro_batches_add_up(average: str) -> None:
    model = model_of()
    batch, loss = answers(model, average), GrpoLoss(CONFIG)
    parts = [loss(model, part)["loss"] / batch.count for part in batch.split(3)]
    torch.testing.assert_close(gradients(model, sum(parts)), gradients(model, mean_loss(model, batch)))


def test_a_temperature_is_that_of_the_distribution_sampled_from() -> None:
    model = model_of()
    batch = answers(model)
    with torch.no_grad():
        logs, entropies = grpo.log_probabilities(model, batch, 2.0)
        wanted = torch.distributions.Categorical(logits=model(batch.inputs) / 2.0)
    counts = batch.targets != IGNORED
    torch.testing.assert_close(logs[counts], wanted.log_prob(batch.targets.clamp(min=0))[counts])
    torch.testing.assert_close(entropies[counts], wanted.entropy()[counts])
    assert not logs[~counts].any()
    assert not entropies[~counts].any()


# Clipping


def test_a_clipped_token_has_no_gradient() -> None:
    """A probability that has risen above the range is not pushed up further; nor one below it down further."""
    model = model_of()
    loss = GrpoLoss(CONFIG)
    for sign, shift, moves in [(1, -1.0, False), (1, 1.0, True), (-1, 1.0, False), (-1, -1.0, True)]:
        batch = answers(model)  # ratio e**-shift: 2.7 or 0.37
        batch = replace(batch, advantages=torch.full((4,), float(sign)), old=batch.old + shift)
        assert bool(gradients(model, loss(model, batch)["loss"]).any()) == moves
        assert loss.measures() == {"clipped": 0.0 if moves else 1.0}


def test_without_clip_every_token_has_a_gradient() -> None:
    model = model_of()
    batch = answers(model, shift=3.0)
    loss = GrpoLoss(replace(CONFIG, clip=None))
    unclipped = gradients(model, loss(model, batch)["loss"])
    assert loss.measures() == {"clipped": 0.0}
    assert not torch.equal(unclipped, gradients(model, GrpoLoss(CONFIG)(model, batch)["loss"]))


def test_clipped_is_a_share_of_tokens() -> None:
    model = model_of()
    loss = GrpoLoss(CONFIG)
    loss(model, answers(model, shift=0.3))
    share = loss.measures()["clipped"]
    assert 0 < share < 1
    assert share * 11 == pytest.approx(round(share * 11))  # of 11 tokens
    assert loss.measures() == {"clipped": 0.0}  # they start anew


# KL


def test_the_kl_term_pulls_towards_the_reference_and_has_no_gradient_there() -> None:
    model, config = model_of(), replace(CONFIG, kl=0.5)
    at = answers(model)
    still = replace(at, advantages=torch.zeros(4), reference=at.old)
    assert gradients(model, mean_loss(model, still, config)).abs().max() < 1e-6
    away = replace(still, reference=at.old - 1.0)
    loss = GrpoLoss(config)
    assert (loss(model, away)["loss"] / away.count).item() == pytest.approx(0.5 * (torch.e**-1 + 1 - 1), rel=1e-4)
    assert loss.measures()["kl"] == pytest.approx(torch.e**-1, rel=1e-4)
    before = grpo.log_probabilities(model, away, 1.0)[0].sum()
    step = gradients(model, mean_loss(model, away, config))
    with torch.no_grad():
        weights = list(model.parameters())
        for p, g in zip(weights, step.split([p.numel() for p in weights]), strict=True):
            p.add_(g.view_as(p), alpha=-0.01)
    assert grpo.log_probabilities(model, away, 1.0)[0].sum() < before  # the reference has lower ones


# Settings


def test_bad_settings_are_named() -> None:
    bad = replace(CONFIG, updates=0, clip=(1.5, 0.2), kl=-1.0)
    assert [key for key, *_ in bad.problems()] == ["kl", "updates", "clip"]
    assert not list(CONFIG.problems())
