"""Distillation on the teacher's distributions (Hinton et al. 2015, "Distilling the Knowledge in a Neural Network")."""

from __future__ import annotations

import torch
from torch import nn

from llm.data.batches import IGNORED, Batch
from llm.model.gpt import GPT
from llm.train.task import Loss, Sums


def soft_targets(teacher: GPT) -> Loss:
    """The loss of a student: the KL divergence from the teacher's next-token distribution to its own, in nats.

    The sum is over the targets of the batch, as in `llm.train.losses`. It is 0 where both distributions are equal. The
    teacher is not trained.
    """
    teacher.eval().requires_grad_(False)

    def loss(student: nn.Module, batch: Batch) -> Sums:
        counts = batch.targets != IGNORED
        with torch.no_grad():
            wanted = torch.log_softmax(teacher(batch.inputs)[counts].float(), dim=-1)  # (N, V)
        found = torch.log_softmax(student(batch.inputs)[counts].float(), dim=-1)
        return {"loss": nn.functional.kl_div(found, wanted, reduction="sum", log_target=True)}

    return loss
