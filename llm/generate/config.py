"""The parameters of decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm.common.params import Problem, at_least_zero, positive

SMALLEST = 2.0**-126  # the least positive normal number of float32


@dataclass(frozen=True)
class DecodingConfig:
    """How the next token is chosen."""

    max_new_tokens: int
    temperature: float  # 0: greedy
    top_k: int | None  # sample from the k most likely tokens
    top_p: float | None  # sample from the smallest set of tokens with this total probability

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always chosen; a temperature that float32 cannot hold counts as 0."""
        return self.temperature < SMALLEST

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "max_new_tokens", "top_k", "top_p")
        if self.top_p is not None and self.top_p > 1:
            yield "top_p", f"{self.top_p} is above 1", "give a probability, such as 0.9"
        yield from at_least_zero(self, "temperature")


def greedy(max_new_tokens: int) -> DecodingConfig:
    """Always choose the most likely token."""
    return DecodingConfig(max_new_tokens, temperature=0.0, top_k=None, top_p=None)
