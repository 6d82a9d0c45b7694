"""Tensors of which each rank has a part (DTensors of torch.distributed), and plain ones, through the same functions.

`whole`, `all_whole` and `divided_like` are collective calls: every rank makes them, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor


def is_divided(tensor: Tensor) -> bool:
    """Whether each rank has a part of the tensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of the tensor."""
    return cast(Tensor, cast(Any, tensor).full_tensor()) if is_divided(tensor) else tensor


def all_whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`whole` of each tensor."""
    return {name: whole(tensor) for name, tensor in tensors.items()}


def part(tensor: Tensor) -> Tensor:
    """What this rank has of the tensor: a run of its first dimension, which may be empty."""
    return cast(Tensor, cast(Any, tensor).to_local()) if is_divided(tensor) else tensor


class Joined(Mapping[str, Tensor]):
    """The whole tensors of what the ranks had as `part`, in their order; each is joined when it is read."""

    def __init__(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Tensor:
        found = [one[name] for one in self._parts]
        return torch.cat(found) if found[0].dim() and len(found) > 1 else found[0]  # all ranks have the same scalars

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts[0])

    def __len__(self) -> int:
        return len(self._parts[0])


def divided_like(pattern: Tensor, tensor: Tensor) -> Tensor:
    """The tensor, which every rank has, divided as `pattern` is."""
    if not is_divided(pattern):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    divided = cast(Any, pattern)
    return distribute_tensor(tensor.to(pattern.device), divided.device_mesh, divided.placements)
