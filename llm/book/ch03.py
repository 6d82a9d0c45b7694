"""Chapter 3: attention without weights, with weights, causal, with dropout, with several heads.

Shapes: B rows, T tokens, D embedding width, O output width, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# Embeddings of "Your journey starts with one step", one word per row (section 3.3).
INPUTS = (
    (0.43, 0.15, 0.89),
    (0.55, 0.87, 0.66),
    (0.57, 0.85, 0.64),
    (0.22, 0.58, 0.33),
    (0.77, 0.25, 0.10),
    (0.05, 0.80, 0.55),
)


def simple_attention(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (T, T), weights (T, T) and context vectors (T, D) of x (T, D), without parameters (section 3.3)."""
    scores = x @ x.T
    weights = torch.softmax(scores, dim=-1)
    return scores, weights, weights @ x


class SelfAttention_v1(nn.Module):
    """Self-attention with three weight matrices (section 3.4)."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.W_query = nn.Parameter(torch.rand(d_in, d_out))
        self.W_key = nn.Parameter(torch.rand(d_in, d_out))
        self.W_value = nn.Parameter(torch.rand(d_in, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, O)."""
        q, k, v = x @ self.W_query, x @ self.W_key, x @ self.W_value
        return torch.softmax(q @ k.T / k.shape[-1] ** 0.5, dim=-1) @ v

    @torch.no_grad()
    def take_weights(self, other: SelfAttention_v2) -> None:
        """Copy the weights of `other`, so that both give the same output (exercise 3.1)."""
        for name in ("W_query", "W_key", "W_value"):
            getattr(self, name).copy_(getattr(other, name).weight.T)


class SelfAttention_v2(nn.Module):
    """The same with `nn.Linear`, whose initial weights train better (section 3.4)."""

    def __init__(self, d_in: int, d_out: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, O)."""
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)
        return torch.softmax(q @ k.T / k.shape[-1] ** 0.5, dim=-1) @ v  # type: ignore[no-any-return]


class CausalAttention(SelfAttention_v2):
    """A token attends to itself and to earlier tokens; dropout acts on the weights (section 3.5)."""

    mask: Tensor  # (context_length, context_length), True for later tokens

    def __init__(self, d_in: int, d_out: int, context_length: int, dropout: float, qkv_bias: bool = False) -> None:
        super().__init__(d_in, d_out, qkv_bias)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("mask", torch.ones(context_length, context_length, dtype=torch.bool).triu(diagonal=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, O)."""
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)
        return self.dropout(causal_weights(q, k, self.mask)) @ v  # type: ignore[no-any-return]


class MultiHeadAttentionWrapper(nn.Module):
    """Several causal attentions whose outputs are concatenated (section 3.6)."""

    def __init__(
        self, d_in: int, d_out: int, context_length: int, dropout: float, num_heads: int, qkv_bias: bool = False
    ) -> None:
        super().__init__()
        heads = (CausalAttention(d_in, d_out, context_length, dropout, qkv_bias) for _ in range(num_heads))
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H * O)."""
        return torch.cat([head(x) for head in self.heads], dim=-1)


class MultiHeadAttention(CausalAttention):
    """One matrix for all heads, split into heads, and an output projection (section 3.6)."""

    def __init__(
        self, d_in: int, d_out: int, context_length: int, dropout: float, num_heads: int, qkv_bias: bool = False
    ) -> None:
        super().__init__(d_in, d_out, context_length, dropout, qkv_bias)
        assert d_out % num_heads == 0, "d_out must be divisible by num_heads"
        self.num_heads = num_heads
        self.out_proj = nn.Linear(d_out, d_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, O)."""
        q, k, v = (self._heads(w(x)) for w in (self.W_query, self.W_key, self.W_value))  # (B, H, T, O / H)
        context = self.dropout(causal_weights(q, k, self.mask)) @ v
        return self.out_proj(context.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        return x.view(B, T, self.num_heads, -1).transpose(1, 2)


def causal_weights(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Attention weights (..., T, T) of queries and keys (..., T, O); zero where `mask` is True."""
    T = q.shape[-2]
    scores = (q @ k.transpose(-2, -1)).masked_fill(mask[:T, :T], -math.inf)
    return torch.softmax(scores / k.shape[-1] ** 0.5, dim=-1)
