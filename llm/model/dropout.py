"""Dropout of which four elements share a random number.

PyTorch draws a number for every element, one after the other, which on CPUs takes longer than the layer that is dropped
from. Here 16 bits of a number decide, so a rate is one of 65,536 steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 2**16


class Dropout(nn.Module):
    """`rate` of the elements become 0 in training, the others grow by what is missing then (section 3.5.2)."""

    def __init__(self, rate: float, packed: bool) -> None:
        super().__init__()
        self.rate, self.packed = rate, packed

    def forward(self, x: Tensor) -> Tensor:
        """Of x's shape and type; draws from torch's global generator, with `packed` fewer numbers."""
        if not self.training or self.rate == 0:
            return x
        return packed_dropout(x, self.rate) if self.packed else F.dropout(x, self.rate)


def packed_dropout(x: Tensor, rate: float) -> Tensor:
    """`F.dropout(x, rate)` with four elements to a number of torch's global generator."""
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # each from -STEPS / 2 to STEPS / 2 - 1
    dropped = min(round(rate * STEPS), STEPS - 1)
    kept = torch.ge(bits, dropped - STEPS // 2, out=torch.empty_like(x))  # 0 or 1
    return x * kept.mul_(STEPS / (STEPS - dropped))
