"""The sections `reason_sft` and `reason_control` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm.common.params import Problem, positive
from llm.data.prompts import PromptName, Template
from llm.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class ReasonSftConfig(TrainConfig):
    """What is taught, and to which model."""

    init_from: str  # a model folder; or a tokenizer's folder, for a new model of the section reason_model
    prompt: PromptName | Template
    share_with_steps: float  # of the solutions; the others are the answer alone

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        if not 0 <= self.share_with_steps <= 1:
            yield "share_with_steps", f"{self.share_with_steps} is not from 0 to 1", "give a fraction, such as 0.5"


@dataclass(frozen=True)
class ReasonControlConfig:
    """How the teaching goes on; all else is as in reason_sft."""

    updates: int

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "updates")
