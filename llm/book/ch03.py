"""Chapter 3, one step at a time: attention without weights, with them, causal, with dropout, with many heads.

Shapes: B rows, T tokens, D width of an embedding, O width of the output, H heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# "Your journey starts with one step", a word a row (section 3.3).
INPUTS = (
    (0.43, 0.15, 0.89),
    (0.55, 0.87, 0.66),
    (0.57, 0.85, 0.64),
    (0.22, 0.58, 0.33),
    (0.77, 0.25, 0.10),
    (0.05, 0.80, 0.55),
)


def simple_attention(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (T, T), weights (T, T) and contexts (T, D) of x (T, D) with nothing to train (section 3.3)."""
    scores = x @ x.T
    weights = torch.softmax(scores, dim=-1)
    return scores, weights, weights @ x


class SelfAttentionV1(nn.Module):
    """Queries, keys and values from three bare matrices (section 3.4)."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.W_query = nn.Parameter(torch.rand(d_in, d_out))
        self.W_key = nn.Parameter(torch.rand(d_in, d_out))
        self.W_value = nn.Parameter(torch.rand(d_in, d_out))

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, O)."""
        q, k, v = x @ self.W_query, x @ self.W_key, x @ self.W_value
        return torch.softmax(q @ k.T / k.shape[-1] ** 0.5, dim=-1) @ v

    def take_weights(self, other: SelfAttentionV2) -> None:
        """Copy the matrices of `other`, which Linear keeps transposed; the outputs then agree (exercise 3.1)."""
        with torch.no_grad():
            for mine, theirs in (
                (self.W_query, other.W_query),
                (self.W_key, other.W_key),
                (self.W_value, other.W_value),
            ):
                mine.copy_(theirs.weight.T)


class SelfAttentionV2(nn.Module):
    """The same from three Linears, whose initialisation trains better (section 3.4)."""

    def __init__(self, d_in: int, d_out: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, O)."""
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)
        return torch.softmax(q @ k.T / k.shape[-1] ** 0.5, dim=-1) @ v  # type: ignore[no-any-return]


class CausalAttention(SelfAttentionV2):
    """A token sees itself and what came before; dropout thins the weights (section 3.5)."""

    def __init__(self, d_in: int, d_out: int, dropout: float = 0.0, qkv_bias: bool = False) -> None:
        super().__init__(d_in, d_out, qkv_bias)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, O)."""
        q, k, v = self.W_query(x), self.W_key(x), self.W_value(x)
        return self.dropout(causal_weights(q, k)) @ v  # type: ignore[no-any-return]


class MultiHeadWrapper(nn.Module):
    """Several causal attentions side by side, their outputs joined (section 3.6; exercise 3.2: d_out 1, two heads)."""

    def __init__(self, d_in: int, d_out: int, n_head: int, dropout: float = 0.0, qkv_bias: bool = False) -> None:
        super().__init__()
        self.heads = nn.ModuleList(CausalAttention(d_in, d_out, dropout, qkv_bias) for _ in range(n_head))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, H * O)."""
        return torch.cat([head(x) for head in self.heads], dim=-1)


class MultiHeadAttention(nn.Module):
    """One matrix for all heads, cut into heads afterwards, and a projection behind them (section 3.6)."""

    def __init__(self, d_in: int, d_out: int, n_head: int, dropout: float = 0.0, qkv_bias: bool = False) -> None:
        super().__init__()
        assert d_out % n_head == 0, "d_out must be divisible by n_head"
        self.n_head = n_head
        self.W_query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.W_value = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.out_proj = nn.Linear(d_out, d_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, O)."""
        q, k, v = (self._heads(w(x)) for w in (self.W_query, self.W_key, self.W_value))  # (B, H, T, O / H)
        context = self.dropout(causal_weights(q, k)) @ v
        return self.out_proj(context.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        return x.view(B, T, self.n_head, -1).transpose(1, 2)


def causal_weights(q: Tensor, k: Tensor) -> Tensor:
    """Attention weights (..., T, T) of queries and keys (..., T, O); what lies ahead gets none."""
    scores = q @ k.transpose(-2, -1)
    ahead = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)
    return torch.softmax(scores.masked_fill(ahead, -math.inf) / k.shape[-1] ** 0.5, dim=-1)
