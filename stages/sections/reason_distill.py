"""The sections `reason_student` and `reason_distill` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from llm.common.params import Problem, at_least_zero, positive
from llm.model.config import ModelParams


@dataclass(frozen=True)
class StudentConfig:
    """The teacher, and the shape of its students; all else of a student is as in reason_model."""

    teacher: str  # a model folder
    n_layer: int
    n_head: int
    n_embd: int

    def shape(self, like: ModelParams) -> ModelParams:
        """The settings of a student."""
        return replace(like, n_layer=self.n_layer, n_head=self.n_head, n_embd=self.n_embd)


@dataclass(frozen=True)
class DistillConfig:
    """What one student learns from."""

    gold: int  # solutions of the training split, with steps
    traces: int  # problems of the rl split that the teacher solves; 0: the student learns from the gold ones alone
    targets: Literal["hard", "soft"]  # hard: the tokens of the solutions | soft: the teacher's distributions there
    temperature: float  # of the teacher's solutions
    filter: Literal["none", "verified"]  # verified: only solutions with the right answer
    max_new_tokens: int
    updates: int

    def problems(self) -> Iterator[Problem]:
        yield from at_least_zero(self, "gold", "traces", "temperature")
        yield from positive(self, "max_new_tokens", "updates")
        if self.gold == 0 and self.traces == 0:
            yield "gold", "0, and traces is 0 too", "give a number of solutions"
