"""The parameters of reinforcement learning: the loss of GRPO, and the sampling of its answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, at_least_zero, positive
from llm.generate.config import DecodingConfig


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How answers are sampled and rewarded, and what is learnt from a set of them."""

    advantage: Literal["std", "mean"]  # reward minus the mean of the group; std: divided by its deviation
    average: Literal["tokens", "answers", "constant"]  # over all tokens | of each answer | by max_new_tokens
    updates: int  # from one set of answers
    clip: tuple[float, float] | None  # how far a probability may fall and rise, as a fraction; null: any
    kl: float  # weight of the KL divergence from the first model, for each token
    group: int  # answers to one problem
    problems_at_once: int  # in a set of answers
    temperature: float
    max_new_tokens: int
    format_reward: float  # for an answer in the right form, right or not; a right one has 1 more

    def problems(self) -> Iterator[Problem]:
        yield from at_least_zero(self, "kl")
        if self.updates < 1:
            yield "updates", f"{self.updates} is below 1", "give 1 or more"
        if self.clip and not (0 < self.clip[0] < 1 and self.clip[1] > 0):
            yield "clip", f"{list(self.clip)} are no fractions", "give two, such as [0.2, 0.2], or null"
        yield from positive(self, "problems_at_once", "temperature", "max_new_tokens")
        yield from at_least_zero(self, "format_reward")
        if self.group < 2:
            yield "group", f"{self.group}, but an answer is compared with others", "give 2 or more, better 8 or 16"

    @property
    def decoding(self) -> DecodingConfig:
        """How answers are sampled: from the whole distribution, since the loss is about it."""
        return DecodingConfig(self.max_new_tokens, self.temperature, top_k=None, top_p=None)
