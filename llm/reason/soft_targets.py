"""Distillation on the teacher's distributions (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llm.data.batches import Batch
from llm.model.gpt import GPT
from llm.train.task import Loss, Sums


def soft_targets(teacher: GPT) -> Loss:
    """The loss of a student: the KL divergence from the teacher's next-token distribution to its own, in nats.

    The sum is over the targets of the batch, as in `llm.train.losses`. It is 0 where both distributions are equal. The
    teacher is not trained.
    """
    teacher.eval().requires_grad_(False)

    def loss(student: nn.Module, batch: Batch) -> Sums:
        with torch.no_grad():
            wanted = _log_probabilities(teacher, batch)
        found = _log_probabilities(student, batch)
        return {"loss": nn.functional.kl_div(found, wanted, reduction="sum", log_target=True)}

    return loss


def _log_probabilities(model: nn.Module, batch: Batch) -> Tensor:
    """Those of all tokens at the targets that count, (N, V)."""
    logits = model(batch.inputs).flatten(0, -2)
    return torch.log_softmax((logits if batch.counted is None else logits[batch.counted]).float(), dim=-1)
