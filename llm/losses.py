"""Losses as a sum and a count, so that means over ragged batches, micro-batches and ranks are exact."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llm.batches import Batch

IGNORED = -100  # a target with this value does not count


def next_token(model: nn.Module, batch: Batch) -> Tensor:
    """Sum over the targets of the cross-entropy of the next token, in nats (section 5.1)."""
    return cross_entropy(model(batch.inputs), batch.targets)


def classification(model: nn.Module, batch: Batch) -> Tensor:
    """Sum over the rows of the cross-entropy of the class, in nats (section 6.6)."""
    return cross_entropy(model(batch.inputs, batch.lengths), batch.targets)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy of logits (..., V) and targets (...); computed in fp32."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def count(targets: Tensor) -> int:
    """How many targets count."""
    return int((targets != IGNORED).sum())
