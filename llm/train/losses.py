"""Losses as sums over targets. Divide by `Batch.count` for the mean; this keeps means over micro-batches exact."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llm.data.batches import IGNORED, Batch
from llm.model.gpt import GPT
from llm.train import fused_loss
from llm.train.task import Loss, Sums


def next_token(model: nn.Module, batch: Batch) -> Sums:
    """Summed cross-entropy of the next token, in nats (section 5.1)."""
    return {"loss": cross_entropy(model(batch.inputs), batch.targets)}


def fused_next_token(model: nn.Module, batch: Batch) -> Sums:
    """`next_token` of a GPT up to rounding, without keeping logits or computing those of ignored targets."""
    assert isinstance(model, GPT)
    return {"loss": next_token_loss(model.transformer(batch.inputs), model.lm_head, batch)}


def next_token_of(fused: bool) -> Loss:
    """Select the loss for the setting `runtime.fused_loss`."""
    return fused_next_token if fused else next_token


def next_token_loss(
    hidden: Tensor,
    head: nn.Module,
    batch: Batch,
    fused: bool = True,
    chunk_loss: fused_loss.ChunkLoss | None = None,
) -> Tensor:
    """`cross_entropy(head(hidden), batch.targets)` for hidden states (..., C), fused if the head supports it.

    `chunk_loss` is passed on to `fused_loss.summed_cross_entropy`.
    """
    if not fused or not fused_loss.supports(hidden, head):  # e.g. a head with a LoRA adapter
        return cross_entropy(head(hidden), batch.targets)
    hidden, targets = hidden.flatten(0, -2), batch.targets.flatten()
    if batch.counted is not None:
        hidden, targets = hidden[batch.counted], targets[batch.counted]
    return fused_loss.summed_cross_entropy(hidden, head, targets, chunk_loss)


def classification(model: nn.Module, batch: Batch) -> Sums:
    """Summed cross-entropy of the class, in nats, and the number of correct predictions (section 6.6)."""
    logits = model(batch.inputs, batch.lengths)  # (B, classes)
    hits = (logits.argmax(dim=-1) == batch.targets).sum()
    return {"loss": cross_entropy(logits, batch.targets), "accuracy": hits}


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy of logits (..., V) and targets (...), computed in fp32."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
