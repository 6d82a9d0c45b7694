"""What the measures of all chapters share: the registry, a continuation by a model, the loss of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from llm.data.tokenizer import Tokenizer
from llm.generate.decoding import DecodingConfig, generate
from llm.model.gpt import GPT

Measured = list[float] | str
MEASURES: dict[str, Callable[..., Measured]] = {}


def measure(function: Callable[..., Measured]) -> Callable[..., Measured]:
    """Register a measure under its name; it takes the sources and the row's `args`, all texts."""
    assert function.__name__ not in MEASURES, f"two measures are called {function.__name__}"
    MEASURES[function.__name__] = function
    return function


def continue_text(model: GPT, gpt2: Tokenizer, prompt: str, tokens: int, temperature: float, top_k: int | None) -> str:
    """The prompt and what a model makes of it, at seed 123; temperature 0 is greedy."""
    ids = gpt2.encode(prompt)
    config = DecodingConfig(max_new_tokens=tokens, temperature=temperature, top_k=top_k, top_p=None)
    return gpt2.decode(ids + generate(model, [ids], config, None, [123])[0])


def loss_of(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the targets of a batch."""
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
