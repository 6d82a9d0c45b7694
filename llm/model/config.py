"""The shape and settings of a GPT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, fraction, positive


@dataclass(frozen=True)
class ModelParams:
    """The section `model` of params.yaml: a ModelConfig without vocab_size, which comes from the tokenizer."""

    context_length: int
    n_layer: int
    n_head: int
    n_embd: int
    dropout: float
    qkv_bias: bool  # true in published GPT-2, false in the book's training
    tie_head: bool  # share the token embedding with the head, as GPT-2 does; the book does not
    init: Literal["gpt2", "torch"]  # GPT-2's initial weights, or PyTorch's defaults as in the book
    attention: Literal["sdpa", "eager"]  # PyTorch's fused attention, or chapter 3 step by step
    dropout_embedding: float | None  # null: the same as dropout (exercise 4.3)
    dropout_attention: float | None
    dropout_random: Literal["each", "packed"]  # one random number for each element, as in PyTorch, or one for four

    @property
    def embedding_rate(self) -> float:
        """The dropout rate of the embeddings."""
        return self.dropout if self.dropout_embedding is None else self.dropout_embedding

    @property
    def attention_rate(self) -> float:
        """The dropout rate of the attention weights."""
        return self.dropout if self.dropout_attention is None else self.dropout_attention

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "context_length", "n_layer", "n_head", "n_embd")
        yield from fraction(self, "dropout", "dropout_embedding", "dropout_attention")
        if self.n_head > 0 and self.n_embd % self.n_head:
            what = f"{self.n_embd} is not divisible by n_head ({self.n_head})"
            below = self.n_embd - self.n_embd % self.n_head
            yield "n_embd", what, f"take {below or self.n_head} or {below + self.n_head}"

    def config(self, vocab_size: int) -> ModelConfig:
        """The shape of the model for a vocabulary of this size."""
        return ModelConfig(vocab_size=vocab_size, **vars(self))


@dataclass(frozen=True)
class ModelConfig(ModelParams):
    """The shape of a GPT (book, section 4.1)."""

    vocab_size: int

    def problems(self) -> Iterator[Problem]:
        """Contradictions between these values."""
        yield from positive(self, "vocab_size")
        yield from super().problems()
