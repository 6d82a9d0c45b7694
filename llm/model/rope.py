"""Rotary positions: a query and a key are rotated by their positions, so their product depends on the distance alone.

Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llm.model.config import ModelConfig
from llm.model.parts import Rope

Rotation = tuple[Tensor, Tensor]  # cosine and sine of every angle: (T, D), or (B, 1, T, D)


def rotation(config: ModelConfig, positions: Tensor) -> Rotation | None:
    """The rotation of tokens at `positions` (T,) or (B, T); None if the model has learned positions."""
    if config.parts.rope is None:
        return None
    angles = positions[..., None] * frequencies(config.parts.rope, config.head_dim).to(positions.device)
    angles = torch.cat((angles, angles), dim=-1)
    if positions.ndim == 2:
        angles = angles[:, None]  # the same for all heads
    return angles.cos(), angles.sin()


def frequencies(rope: Rope, head_dim: int) -> Tensor:
    """The angle (D / 2,) between neighbouring positions, for each pair of elements; in radians, fp32."""
    fast = 1.0 / rope.theta ** (torch.arange(0, head_dim, 2, device="cpu").float() / head_dim)
    if rope.scaling is None:
        return fast
    low, high = rope.scaling.low_freq_factor, rope.scaling.high_freq_factor
    turns = fast * rope.scaling.original_context / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)  # 1: a fast rotation, 0: a slow one
    return kept * fast + (1 - kept) * fast / rope.scaling.factor


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate queries or keys (B, heads, T, D); element i makes a pair with element i + D / 2."""
    cos, sin = (part.to(x.dtype) for part in by)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
