"""Losses as sums; `Batch.count` says over how many targets, so means over ragged and micro-batches are exact."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llm.data.batches import IGNORED, Batch
from llm.model.gpt import GPT
from llm.train import fused_loss
from llm.train.task import Loss, Sums


def next_token(model: nn.Module, batch: Batch) -> Sums:
    """Sum over the targets of the cross-entropy of the next token, in nats (section 5.1)."""
    return {"loss": cross_entropy(model(batch.inputs), batch.targets)}


def fused_next_token(model: nn.Module, batch: Batch) -> Sums:
    """`next_token` of a GPT up to rounding, without keeping logits; there are none of targets that do not count."""
    assert isinstance(model, GPT)
    return {"loss": next_token_loss(model.transformer(batch.inputs), model.lm_head, batch.targets)}


def next_token_of(fused: bool) -> Loss:
    """As `runtime.fused_loss` has it."""
    return fused_next_token if fused else next_token


def next_token_loss(
    hidden: Tensor,
    head: nn.Module,
    targets: Tensor,
    fused: bool = True,
    one_pass: fused_loss.OfLogits | None = None,
) -> Tensor:
    """`cross_entropy(head(hidden), targets)` of the hidden states (..., C); `fused` where that can be.

    `one_pass` goes to `fused_loss.summed_cross_entropy`.
    """
    if not fused or not fused_loss.fits(hidden, head):  # there may be another path beside it, as LoRA's
        return cross_entropy(head(hidden), targets)
    counts = targets != IGNORED
    if counts.all():
        return fused_loss.summed_cross_entropy(hidden.flatten(0, -2), head, targets.flatten(), one_pass)
    return fused_loss.summed_cross_entropy(hidden[counts], head, targets[counts], one_pass)


def classification(model: nn.Module, batch: Batch) -> Sums:
    """Sums over the rows of the cross-entropy of the class, in nats, and of the hits (section 6.6)."""
    logits = model(batch.inputs, batch.lengths)  # (B, classes)
    hits = (logits.argmax(dim=-1) == batch.targets).sum()
    return {"loss": cross_entropy(logits, batch.targets), "accuracy": hits}


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy of logits (..., V) and targets (...); computed in fp32."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
