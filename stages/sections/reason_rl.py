"""The section `reason_rl` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, positive
from llm.reason.config import RolloutConfig
from llm.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class ReasonRlConfig(RolloutConfig):
    """What is trained, for how long, and with which optimizer."""

    init_from: str  # a model folder
    ask: str  # the text around a question
    steps: int  # number of answer sets
    eval_every: int  # sets of answers, as for the next two
    save_every: int | None
    patience: int | None
    keep: Literal["last", "best"]
    val_samples: int  # answers to each validation problem
    max_dead: float
    micro_batch_size: int | None
    lr: float
    warmup_steps: int  # updates
    weight_decay: float
    beta2: float
    clip_norm: float | None

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from positive(self, "steps", "eval_every", "save_every", "val_samples")
        answers = self.problems_at_once * self.group
        for name, what, fix in self.training.problems():
            if name == "batch_size" and answers > 0:
                does = f"{self.micro_batch_size} does not divide problems_at_once x group ({answers})"
                yield "micro_batch_size", does, "take a divisor, or null"
            elif name not in ("batch_size", "eval_every", "save_every"):
                yield name, what, fix
        if not 0 <= self.max_dead <= 1:
            yield "max_dead", f"{self.max_dead} is not from 0 to 1", "give a fraction, such as 0.7"
        if "{question}" not in self.ask:
            yield "ask", f"{self.ask!r:.60} has no {{question}}", "write {question} at the place of the question"

    @property
    def training(self) -> TrainConfig:
        """The same for `fit`, which counts updates."""
        each = max(1, self.updates)
        return TrainConfig(
            epochs=1,
            batch_size=self.problems_at_once * self.group,
            micro_batch_size=self.micro_batch_size,
            eval_every=self.eval_every * each,
            eval_batches=None,
            save_every=self.save_every and self.save_every * each,
            keep=self.keep,
            patience=self.patience,
            lr=self.lr,
            schedule="constant",
            warmup_steps=self.warmup_steps,
            warmup_from=0.0,
            decay_to=1.0,
            weight_decay=self.weight_decay,
            weight_decay_on="matrices",
            beta2=self.beta2,
            clip_norm=self.clip_norm,
        )
