"""The room that a training needs, from its settings."""

from __future__ import annotations

import math
from typing import Any

from llm.model import memory
from llm.model.config import ModelConfig
from llm.runtime.device import RuntimeConfig
from llm.train.config import TrainConfig


def room_for(
    config: TrainConfig, model: ModelConfig, runtime: RuntimeConfig, length: int, **more: Any
) -> memory.Training:
    """What decides about the memory of a training whose longest row has `length` tokens.

    `more` are further fields of `memory.Training`.
    """
    rows = config.rows if config.micro_batch_size else math.ceil(config.batch_size / runtime.ranks)
    accumulates = rows * runtime.ranks < config.batch_size
    return memory.Training(model, runtime, rows, length, accumulates, keeps_best=config.keep == "best", **more)
