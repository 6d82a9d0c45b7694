"""Shared by the measures of all chapters: the registry, and a model's continuation of a prompt."""

from __future__ import annotations

from collections.abc import Callable

from llm.data.tokenizer import Tokenizer
from llm.generate.config import DecodingConfig
from llm.generate.decoding import generate
from llm.model.gpt import GPT

Measured = list[float] | str
MEASURES: dict[str, Callable[..., Measured]] = {}


def measure(function: Callable[..., Measured]) -> Callable[..., Measured]:
    """Register a measure under its name; it takes the sources and the row's `args`, all of them strings."""
    assert function.__name__ not in MEASURES, f"two measures are called {function.__name__}"
    MEASURES[function.__name__] = function
    return function


def continue_text(model: GPT, gpt2: Tokenizer, prompt: str, tokens: int, temperature: float, top_k: int | None) -> str:
    """The prompt with the model's continuation; greedy at temperature 0, otherwise sampled with seed 123."""
    ids = gpt2.encode(prompt)
    config = DecodingConfig(max_new_tokens=tokens, temperature=temperature, top_k=top_k, top_p=None)
    return gpt2.decode(ids + generate(model, [ids], config, (), [123])[0])
