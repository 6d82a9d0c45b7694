"""What a training run is told, AdamW, and its learning rate as a plain function of the step (appendix D)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from llm.params import Problem, at_least_zero, fraction, positive


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, in which portions, how the weights move, and how often to look."""

    epochs: int
    batch_size: int
    micro_batch_size: int | None  # rows at once; the gradients of a batch add up. null: the whole batch
    eval_every: int  # steps between two evaluations
    eval_batches: int | None  # batches of each split to evaluate on; null: all
    save_every: int | None  # steps between two saved states, which a run that was stopped goes on from; null: never
    keep: Literal["last", "best"]  # the weights to end with; best: those of the lowest validation loss
    patience: int | None  # evaluations in a row without a lower one until the run ends; null: it runs to its end

    lr: float
    schedule: Literal["constant", "cosine"]  # after the warm-up
    warmup_steps: int  # steps on which the learning rate rises to lr
    warmup_from: float  # where it begins, as a share of lr
    decay_to: float  # where the cosine ends, as a share of lr
    weight_decay: float
    weight_decay_on: Literal["matrices", "all"]  # all: norms and biases too, as the book
    beta2: float
    clip_norm: float | None  # gradients longer than this are scaled down to it

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from positive(self, "epochs", "batch_size", "micro_batch_size", "eval_every", "eval_batches")
        yield from positive(self, "save_every", "patience", "lr", "clip_norm")
        yield from at_least_zero(self, "warmup_steps", "warmup_from", "decay_to", "weight_decay")
        yield from fraction(self, "beta2")
        for name in ("warmup_from", "decay_to"):
            if getattr(self, name) > 1:
                yield name, f"{getattr(self, name)} is above 1", "give a share of lr, such as 0.1"
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            what = f"{self.batch_size} is not a multiple of micro_batch_size ({self.micro_batch_size})"
            yield "batch_size", what, f"take a multiple of {self.micro_batch_size}"


def lr_at(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of one of `steps` steps: linear warm-up, then constant or cosine.

    `steps` are those planned: a run that `patience` ends early has gone through the first part of its schedule.
    """
    if step < config.warmup_steps:
        return config.lr * (config.warmup_from + (1 - config.warmup_from) * step / config.warmup_steps)
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (config.decay_to + (1 - config.decay_to) * 0.5 * (1 + math.cos(math.pi * done)))


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over what is trainable, with weight decay on matrices or on every parameter."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    smallest = {"matrices": 2, "all": 0}[config.weight_decay_on]  # in dimensions
    groups = [
        {"params": [p for p in trainable if p.dim() >= smallest], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() < smallest], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, config.beta2), fused=True)
