"""The section `finetune_spam` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, fraction
from llm.model.trainable import UPPER_BLOCKS, LoraConfig, Position, Trainable, check_together
from llm.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneSpamConfig(TrainConfig):
    """What is fine-tuned, and how messages are read."""

    init_from: str  # a model folder: shape, tokenizer, and the weights to start from
    weights: Literal["pretrained", "random"]  # random: only the shape and the tokenizer are used
    trainable: Trainable
    lora: LoraConfig | None  # only with trainable: lora
    position: Position
    padding: Literal["longest", "context", "batch"]  # to the longest training message, the context, the batch
    causal: bool  # false: every position attends to all positions, padding too
    dropout: float
    frozen_prefix: bool  # compute blocks that do not train once, not in every epoch; needs dropout 0

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from fraction(self, "dropout")
        yield from check_together(self.trainable, self.lora)
        if self.padding == "batch" and (self.position in ("last", "mean_all") or not self.causal):
            reads = f"position {self.position!r}" if self.causal else "causal false"
            what = f"{self.padding!r} with {reads} makes a score depend on the rest of its batch"
            yield "padding", what, "take padding longest" + (", or position last_token" if self.causal else "")

    def frozen_blocks(self, n_layer: int) -> int:
        """The number of lower blocks with the same states in every epoch; 0 if the whole model must run."""
        if not self.frozen_prefix or self.dropout > 0 or not self.causal:
            return 0
        return max(0, n_layer - UPPER_BLOCKS.get(self.trainable, n_layer))
