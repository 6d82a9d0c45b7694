"""Modules without data, to count their parameters or to load tensors into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def on_meta_device() -> Iterator[None]:
    """Create modules on the meta device: with names and shapes, but without data.

    `torch.nn.init` is skipped. On the meta device it computes nothing, but it makes PyTorch import its compiler, which
    takes a second.
    """
    with torch.device("meta"), _NoInit():
        yield


class _NoInit(TorchFunctionMode):
    """Makes the functions of `torch.nn.init` return their tensor unchanged."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":  # methods of tensors have no __module__
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
