"""The parameters of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, at_least_zero, fraction, positive


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training parameters: duration, batches, evaluation, and the optimizer."""

    epochs: int
    batch_size: int
    micro_batch_size: int | None  # rows per forward pass; gradients are accumulated. null: the whole batch
    eval_every: int  # steps between two evaluations
    eval_batches: int | None  # batches of each split to evaluate on; null: all
    save_every: int | None  # steps between two checkpoints, from which a stopped run resumes; null: no checkpoints
    keep: Literal["last", "best"]  # the final weights; best: those with the lowest validation loss
    patience: int | None  # stop after this many evaluations in a row without a lower validation loss; null: never

    lr: float
    schedule: Literal["constant", "cosine"]  # after the warm-up
    warmup_steps: int  # steps in which the learning rate rises to lr
    warmup_from: float  # the learning rate at step 0, as a fraction of lr
    decay_to: float  # the learning rate at the end of the cosine, as a fraction of lr
    weight_decay: float
    weight_decay_on: Literal["matrices", "all"]  # all: norms and biases too, as in the book
    beta2: float
    clip_norm: float | None  # the largest gradient norm; null: no clipping

    @property
    def rows(self) -> int:
        """Rows of a forward pass."""
        return min(self.batch_size, self.micro_batch_size or self.batch_size)

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "epochs", "batch_size", "micro_batch_size", "eval_every", "eval_batches")
        yield from positive(self, "save_every", "patience", "lr", "clip_norm")
        yield from at_least_zero(self, "warmup_steps", "warmup_from", "decay_to", "weight_decay")
        yield from fraction(self, "beta2")
        for name in ("warmup_from", "decay_to"):
            if getattr(self, name) > 1:
                yield name, f"{getattr(self, name)} is above 1", "set it to a fraction of lr, such as 0.1"
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            what = f"{self.batch_size} is not a multiple of micro_batch_size ({self.micro_batch_size})"
            yield "batch_size", what, f"set it to a multiple of {self.micro_batch_size}"
