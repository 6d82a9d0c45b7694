"""A device `remote` that computes on the CPU, but whose tensors the host must copy to read, as those of a GPU.

It stands for a GPU where there is none: `Remote` counts how often the host would have to wait. PyTorch knows the device
for the rest of the process, so use it in a process of its own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("remote")
DEVICE = torch.device("remote:0")
READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero"}  # their result needs the numbers


class RemoteTensor(Tensor):
    """A tensor on the device; `held` is where its numbers are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> RemoteTensor:
        made: RemoteTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        """As of any tensor: PyTorch has none for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of Remote")


class Remote(TorchDispatchMode):
    """While it is entered, the device works; `waits` counts the operations that wait for it, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> Remote:
        super().__enter__()
        self._tensor = torch.tensor  # it hides what it does from dispatch modes
        torch.tensor = lambda data, device="cpu", **options: self._tensor(data, **options).to(device)
        return self

    def __exit__(self, *error: Any) -> None:
        torch.tensor = self._tensor
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        from_remote = any(isinstance(tensor, RemoteTensor) for tensor in tensors)
        to_remote = from_remote
        for device in (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)):
            to_remote = device.type == DEVICE.type
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(tensor, RemoteTensor) and tensor.dtype == torch.bool for tensor in tree_leaves(args[1])
        )
        copied = name == "copy_" and isinstance(args[1], RemoteTensor) and not isinstance(args[0], RemoteTensor)
        if from_remote and (name in READS or by_mask or copied or not to_remote):
            self.waits[name] += 1
        mixed = [t for t in tensors if not isinstance(t, RemoteTensor) and t.dim() > 0]
        assert not (from_remote and mixed and name not in ("copy_", "index")), f"{name} of tensors on two devices"
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if func._schema.is_mutable:  # in place
            written = kwargs.get("out", args[0])
            return written if isinstance(result, Tensor) else result
        return tree_map(RemoteTensor, result) if _all_tensors(result) and to_remote else result


def _held(value: Any) -> Any:
    """The tensor or device to compute with instead."""
    if isinstance(value, RemoteTensor):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _all_tensors(value: Any) -> bool:
    leaves = tree_leaves(value)
    return bool(leaves) and all(isinstance(leaf, Tensor) for leaf in leaves)
