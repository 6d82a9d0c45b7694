"""Dropout that draws one random number for four elements.

PyTorch draws a number for every element, one by one. On CPUs that takes longer than the layer before. Here 16 bits of
a number decide about an element, so rates are rounded to steps of 1/65,536.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 2**16


class Dropout(nn.Module):
    """In training, sets a share of `rate` of the elements to 0 and scales up the others (section 3.5.2).

    `packed` draws one number of PyTorch's global generator for four elements; otherwise it is PyTorch's dropout.
    """

    def __init__(self, rate: float, packed: bool) -> None:
        super().__init__()
        self.rate, self.packed = rate, packed

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        return packed_dropout(x, self.rate) if self.packed else F.dropout(x, self.rate)


def packed_dropout(x: Tensor, rate: float) -> Tensor:
    """`F.dropout(x, rate)` with one random number for four elements."""
    numbers = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    bits = numbers.view(torch.int16)[: x.numel()].view(x.shape)  # each from -STEPS / 2 to STEPS / 2 - 1
    dropped = min(round(rate * STEPS), STEPS - 1)
    kept = torch.ge(bits, dropped - STEPS // 2, out=torch.empty_like(x))  # 0 or 1
    return x * kept.mul_(STEPS / (STEPS - dropped))
