"""The section `tracking` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from llm.common.params import Problem, at_least_zero


@dataclass(frozen=True)
class Gate:
    """What the version of a registered model must show to become its champion."""

    metric: str  # <stage>.<name>, as in the run of a whole `dvc repro`
    better: Literal["higher", "lower"]
    margin: float = 0.0  # a version must be better than the champion by more than this

    def problems(self) -> Iterator[Problem]:
        yield from at_least_zero(self, "margin")
        if "." not in self.metric.strip("."):
            yield "metric", f"{self.metric!r} names no stage", "write <stage>.<name>, as in finetune_spam.test_accuracy"

    def passes(self, value: float, champion: float) -> bool:
        """Whether the value is better than that of the champion by more than the margin."""
        return (value - champion if self.better == "higher" else champion - value) > self.margin


@dataclass(frozen=True)
class TrackingConfig:
    """Whether runs are recorded, and which models become champions; decides no result."""

    enabled: bool
    required: bool  # a server that cannot be reached is an error at the start, not a warning
    champion: dict[str, Gate] = field(default_factory=dict)  # by registered model
    traces: int = 20  # generated answers of a stage that are shown as traces

    def problems(self) -> Iterator[Problem]:
        yield from at_least_zero(self, "traces")
