"""Losses are sums over the targets that are not ignored."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llm.data.batches import IGNORED, Batch
from llm.train import losses


class Fixed(nn.Module):
    """A model that returns the given logits and records its arguments."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, *arguments: Tensor | None) -> Tensor:
        self.arguments = arguments
        return self.logits


def by_hand(logits: Tensor, targets: Tensor) -> float:
    """The sum of -log p(target), one target at a time."""
    rows = zip(logits.view(-1, logits.shape[-1]).tolist(), targets.flatten().tolist(), strict=True)
    losses_of_rows = [math.log(sum(map(math.exp, row))) - row[target] for row, target in rows if target != IGNORED]
    return float(sum(losses_of_rows))


def test_next_token_loss_is_the_sum_over_all_targets() -> None:
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    loss = losses.next_token(Fixed(logits), Batch(targets, targets))["loss"]
    assert math.isclose(loss.item(), by_hand(logits, targets), rel_tol=1e-5)


def test_ignored_targets_do_not_count() -> None:
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    targets[0, 1] = targets[1, 2] = IGNORED
    loss = losses.next_token(Fixed(logits), Batch(targets, targets))["loss"]
    assert math.isclose(loss.item(), by_hand(logits, targets), rel_tol=1e-5)


def test_loss_of_ignored_targets_alone_is_zero() -> None:
    targets = torch.full((2, 3), IGNORED)
    assert losses.next_token(Fixed(torch.randn(2, 3, 5)), Batch(targets, targets))["loss"].item() == 0


def test_classification_loss_is_the_sum_over_rows() -> None:
    logits, targets = torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    loss = losses.classification(Fixed(logits), Batch(torch.zeros(4, 3), targets))["loss"]
    assert math.isclose(loss.item(), by_hand(logits, targets), rel_tol=1e-5)


def test_classification_counts_the_hits_of_the_same_logits() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])  # predicts 0, 1, 0
    sums = losses.classification(Fixed(logits), Batch(torch.zeros(3, 3), torch.tensor([0, 1, 1])))
    assert sums["accuracy"].item() == 2


def test_the_classifier_gets_the_lengths() -> None:
    model, lengths = Fixed(torch.randn(1, 2)), torch.tensor([3])
    losses.classification(model, Batch(torch.zeros(1, 4), torch.tensor([0]), lengths))
    assert model.arguments[1] is lengths


def test_losses_of_the_parts_add_up() -> None:
    logits, targets = torch.randn(6, 3, 5, dtype=torch.float64).float(), torch.randint(5, (6, 3))
    whole = losses.cross_entropy(logits, targets)
    parts = sum(losses.cross_entropy(logits[i : i + 2], targets[i : i + 2]) for i in (0, 2, 4))
    torch.testing.assert_close(parts, whole)


def test_bf16_logits_are_summed_in_fp32() -> None:
    logits, targets = torch.randn(400, 50).bfloat16(), torch.randint(50, (400,))
    loss = losses.cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert math.isclose(loss.item(), by_hand(logits.float(), targets), rel_tol=1e-5)


def test_loss_of_chapter_5s_toy_probabilities() -> None:
    chosen = torch.tensor([7.4540e-05, 3.1061e-05, 1.1563e-05, 1.0337e-05, 5.6776e-05, 4.7559e-06])
    logits = torch.stack([chosen, 1 - chosen], dim=-1).log()
    mean = losses.cross_entropy(logits, torch.zeros(6, dtype=torch.long)).item() / 6
    assert round(mean, 3) == 10.794
