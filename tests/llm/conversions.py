"""Sees which tensors are converted from one type to another."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Conversions(TorchDispatchMode):
    """The shapes of what is converted while this is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.to.dtype):  # the second in inference mode
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))
