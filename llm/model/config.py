"""The shape and settings of a GPT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from llm.common.params import Problem, fraction, positive
from llm.model.parts import FAMILIES, GPT2, Family, Parts

Init = Literal["gpt2", "torch", "width"]
INITS = get_args(Init)
MOST = 2**24  # far above every model; sizes beyond it overflow PyTorch's counters


@dataclass(frozen=True)
class ModelParams:
    """The section `model` of params.yaml: a ModelConfig without the vocabulary and the parts of the family."""

    family: Family  # names the norm, the positions, the MLP and the biases, and the format of the model folder
    context_length: int
    n_layer: int
    n_head: int
    n_kv_head: int | None  # heads of keys and values, each for n_head / n_kv_head queries; null: n_head
    n_embd: int
    dropout: float
    qkv_bias: bool  # true in published GPT-2, false in the book's training
    tie_head: bool  # share the token embedding with the head, as GPT-2 does; the book does not
    # The first weights: GPT-2's; PyTorch's defaults as in the book; or GPT-2's scheme scaled to the width
    init: Init
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

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "context_length", "n_layer", "n_head", "n_kv_head", "n_embd")
        yield from fraction(self, "dropout", "dropout_embedding", "dropout_attention")
        for name in ("context_length", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) > MOST:
                yield name, f"{getattr(self, name)} is above {MOST:,}", "give less"
        if self.n_head > 0 and self.kv_heads > 0 and self.n_head % self.kv_heads:
            what = f"{self.n_kv_head} does not divide n_head ({self.n_head})"
            yield "n_kv_head", what, "take a divisor, or null"
        if self.family == "gpt2" and self.kv_heads != self.n_head:
            yield "n_kv_head", f"{self.n_kv_head}, but GPT-2 has as many as queries", "set it to null"
        if self.family != "gpt2" and self.qkv_bias != (self.family == "qwen2"):
            has, fix = ("a bias", "true") if self.family == "qwen2" else ("no bias", "false")
            what = f"{str(self.qkv_bias).lower()}, but the family {self.family} has {has} there"
            yield "qkv_bias", what, f"set it to {fix}"
        yield from self._width_problems()

    def _width_problems(self) -> Iterator[Problem]:
        """Heads that do not fit into the embedding."""
        if self.n_head > 0 and self.n_embd % self.n_head:
            what = f"{self.n_embd} is not divisible by n_head ({self.n_head})"
            below = self.n_embd - self.n_embd % self.n_head
            yield "n_embd", what, f"take {below or self.n_head} or {below + self.n_head}"
        elif self.n_head > 0 and self.family != "gpt2" and self.n_embd // self.n_head % 2:
            what = f"{self.n_embd} gives heads of {self.n_embd // self.n_head}, but rotary positions rotate pairs"
            yield "n_embd", what, f"take a multiple of {2 * self.n_head}"

    def config(self, vocab_size: int) -> ModelConfig:
        """The shape of the model for a vocabulary of this size."""
        return ModelConfig(vocab_size=vocab_size, parts=FAMILIES[self.family], **vars(self))


@dataclass(frozen=True)
class ModelConfig(ModelParams):
    """The shape of a GPT (book, section 4.1), and the parts it is made of."""

    vocab_size: int
    parts: Parts = GPT2

    @property
    def head_dim(self) -> int:
        """The size of a head."""
        return self.parts.head_dim or self.n_embd // self.n_head

    @property
    def n_inner(self) -> int:
        """The width of the MLP; by default SwiGLU has as many parameters as GELU, rounded up to a multiple of 64."""
        default = 4 * self.n_embd if self.parts.mlp == "gelu" else -(-8 * self.n_embd // (3 * 64)) * 64
        return self.parts.n_inner or default

    def problems(self) -> Iterator[Problem]:
        """Contradictions between these values."""
        yield from positive(self, "vocab_size")
        yield from positive(self.parts, "n_inner", "head_dim")
        yield from super().problems()

    def _width_problems(self) -> Iterator[Problem]:
        if self.parts.head_dim is None:
            yield from super()._width_problems()
        elif self.parts.rope and self.parts.head_dim % 2:
            yield "head_dim", f"{self.parts.head_dim} is odd, but rotary positions rotate pairs", "take an even number"
