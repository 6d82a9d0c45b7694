"""The section `finetune_instruct` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, fraction, positive
from llm.data.prompts import PromptName, Template
from llm.model.trainable import LoraConfig, check_together
from llm.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneInstructConfig(TrainConfig):
    """What is fine-tuned, and on which targets."""

    init_from: str  # a model folder: shape, tokenizer, and the weights to start from
    weights: Literal["pretrained", "random"]  # random: only the shape and the tokenizer are used
    trainable: Literal["all", "lora"]
    lora: LoraConfig | None  # only with trainable: lora
    prompt: PromptName | Template
    mask_prompt: bool  # train on the answers only (exercise 7.2)
    bucket_batches: int | None  # sort the examples of this many batches by length; null: do not sort
    dropout: float

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from positive(self, "bucket_batches")
        yield from fraction(self, "dropout")
        yield from check_together(self.trainable, self.lora)
