"""The section `reason_evaluate` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm.common.params import Problem, positive
from llm.generate.config import DecodingConfig


@dataclass(frozen=True)
class ReasonEvaluateConfig:
    """How the test problems are asked."""

    ask: str  # the text around a question, for models that need to be told
    sampling: DecodingConfig  # of several responses to one problem
    samples: int  # responses to a problem; a power of two
    problems_at_once: int
    refine: str | None  # asks the model for a better answer; null: it is not asked

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "problems_at_once")
        if "{question}" not in self.ask:
            yield "ask", f"{self.ask!r:.60} has no {{question}}", "write {question} at the place of the question"
        if self.samples < 1 or self.samples & (self.samples - 1):
            yield "samples", f"{self.samples} is not a power of two", "give 1, 2, 4, 8, 16, ..."
        if self.sampling.is_greedy:
            yield "sampling.temperature", f"{self.sampling.temperature:g}, but all samples would be equal", "give 1.0"
