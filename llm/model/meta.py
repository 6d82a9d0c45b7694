"""Modules without numbers, for whoever brings the tensors along or only counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Modules made in this context have names and shapes, and no numbers: they lie on the meta device.

    On that device initialisation computes nothing either, but PyTorch loads its compiler to find that out: a second.
    """
    with torch.device("meta"), _NothingDrawn():
        yield


class _NothingDrawn(TorchFunctionMode):
    """Leaves tensors as `torch.nn.init` finds them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":  # methods of tensors have none
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
