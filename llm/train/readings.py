"""Losses and gradient norms of updates, which a GPU has computed but the host has not read.

Reading a number waits until the device has done everything before it. A loop that reads after every update leaves a
GPU idle while the host prepares the next one. So on a GPU the numbers of several updates are read together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reading:
    """The numbers of one update."""

    step: int  # updates before it
    lr: float
    loss: float  # mean over the batch
    norm: float  # of the gradients


class Readings:
    """The numbers of the updates since the last `read`."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, float, Tensor]] = []  # step, lr, and the losses of micro-batches with the norm
        self.stop: Tensor | None = None  # on a GPU: 1.0 from the first update on whose numbers are not finite, else 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, step: int, lr: float, losses: Sequence[Tensor], norm: Tensor) -> None:
        """Add an update; `losses` of its micro-batches sum to its loss."""
        numbers = torch.stack([*losses, norm])
        self._waiting.append((step, lr, numbers))
        if numbers.device.type != "cpu":
            bad = 1.0 - numbers.isfinite().all().float()
            self.stop = bad if self.stop is None else torch.maximum(self.stop, bad)

    def read(self) -> Iterator[Reading]:
        """Yield the numbers of all waiting updates, in order; waits for the device once."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        values = iter(torch.cat([numbers for *_, numbers in waiting]).tolist())
        for step, lr, numbers in waiting:
            *losses, norm = (next(values) for _ in numbers)
            yield Reading(step, lr, sum(losses, 0.0), norm)
