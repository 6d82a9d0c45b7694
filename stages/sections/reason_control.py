"""The section `reason_control` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm.common.params import Problem, positive


@dataclass(frozen=True)
class ReasonControlConfig:
    """How the teaching goes on; all else is as in reason_sft."""

    updates: int

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "updates")
