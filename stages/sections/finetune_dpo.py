"""The section `finetune_dpo` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, at_least_zero, fraction, positive
from llm.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneDpoConfig(TrainConfig):
    """What is optimised, and how its answers are measured."""

    init_from: str  # a model folder; also the reference
    beta: float  # how far the model may leave the reference: less with a larger value
    average: Literal["mean", "sum"]  # of the log-probabilities of an answer's tokens
    label_smoothing: float  # share of the pairs that may be labelled the wrong way round
    anchor: float  # weight of the next-token loss of the chosen answer, which keeps its probability up
    max_pairs: int | None  # of the training split, the first ones; null: all
    answers: int  # test questions that are answered before and after the training
    max_new_tokens: int  # of such an answer

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from positive(self, "beta", "answers", "max_new_tokens", "max_pairs")
        yield from at_least_zero(self, "anchor")
        yield from fraction(self, "label_smoothing")
        if self.label_smoothing >= 0.5:
            yield "label_smoothing", f"{self.label_smoothing} is not below 0.5", "0.5 would prefer neither answer"
