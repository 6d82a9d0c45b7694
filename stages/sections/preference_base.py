"""The section `preference_base` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm.common.params import Problem, fraction
from llm.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PreferenceBaseConfig(TrainConfig):
    """What is taught both answers."""

    chosen_share: float  # of the rows; the others have the rejected answers. At most 0.5

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from fraction(self, "chosen_share", zero=False)
        if self.chosen_share > 0.5:
            yield "chosen_share", f"{self.chosen_share} is above 0.5", "give 0.5 or less"
