"""Losses as sums; `Batch.count` says over how many targets, so means over ragged and micro-batches are exact."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llm.batches import IGNORED, Batch

Sums = dict[str, Tensor]  # by the name of the measure; `loss` is what training brings down


def next_token(model: nn.Module, batch: Batch) -> Sums:
    """Sum over the targets of the cross-entropy of the next token, in nats (section 5.1)."""
    return {"loss": cross_entropy(model(batch.inputs), batch.targets)}


def classification(model: nn.Module, batch: Batch) -> Sums:
    """Sums over the rows of the cross-entropy of the class, in nats, and of the hits (section 6.6)."""
    logits = model(batch.inputs, batch.lengths)  # (B, classes)
    hits = (logits.argmax(dim=-1) == batch.targets).sum()
    return {"loss": cross_entropy(logits, batch.targets), "accuracy": hits}


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy of logits (..., V) and targets (...); computed in fp32."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")
