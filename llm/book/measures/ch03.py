"""Chapter 3: the steps of attention for six words."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from llm.book import ch03
from llm.book.measures.common import Measured, measure
from llm.book.measures.sources import Sources


@measure
def simple_attention(_sources: Sources) -> Measured:
    """Scores, weights and context vector of the second word."""
    parts = ch03.simple_attention(torch.tensor(ch03.INPUTS))
    return [value for part in parts for value in part[1].tolist()]


@measure
def attention_rows(_sources: Sources, step: str, seed: str) -> Measured:
    """Outputs of one step for the six words, row by row."""
    x = torch.tensor(ch03.INPUTS)
    torch.manual_seed(int(seed))
    steps: dict[str, Callable[[], nn.Module]] = {
        "v1": lambda: ch03.SelfAttention_v1(3, 2),
        "v2": lambda: ch03.SelfAttention_v2(3, 2),
        "causal": lambda: ch03.CausalAttention(3, 2, 6, 0.0),
        "wrapper": lambda: ch03.MultiHeadAttentionWrapper(3, 2, 6, 0.0, num_heads=2),
        "heads": lambda: ch03.MultiHeadAttention(3, 2, 6, 0.0, num_heads=2),
    }
    out: Tensor = steps[step]()(x if step in ("v1", "v2") else torch.stack([x, x]))
    return out.flatten(0, -2)[:6].flatten().tolist()
