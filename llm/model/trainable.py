"""The parameters of fine-tuning: the layers that train, LoRA, and the states that a classifier reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, positive

Position = Literal["first", "last", "last_token", "mean", "mean_all", "last_token_and_mean"]
Trainable = Literal["head", "last_block", "last_two_blocks", "all", "lora"]
UPPER_BLOCKS: dict[Trainable, int] = {"head": 0, "last_block": 1, "last_two_blocks": 2}  # trained; otherwise all


@dataclass(frozen=True)
class LoraConfig:
    """The rank and scale of the update."""

    rank: int
    alpha: float
    scaling: Literal["alpha/rank", "alpha"]  # appendix E | ablations of chapter 6, exercise 7.4

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.rank if self.scaling == "alpha/rank" else self.alpha

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "rank", "alpha")


def check_together(trainable: str, config: LoraConfig | None) -> Iterator[Problem]:
    """Problems of a section whose keys `trainable` and `lora` do not go together."""
    if trainable == "lora" and config is None:
        yield "lora", "null, but trainable is lora", "write rank, alpha and scaling below it, as configs/lora.yaml does"
    if trainable != "lora" and config is not None:
        yield "lora", f"given, but trainable is {trainable}", "set it to null, or trainable to lora"
