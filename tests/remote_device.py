"""A GPU that computes on the CPU: what the code sees is a device `cuda` or `mps`, whose tensors it must copy to read.

It stands for a GPU where there is none. As there, tensors of two devices do not mix, a generator belongs to a device,
`mps` has no float64, and where only deterministic algorithms may run, an operation without one raises an error. Dropout
draws the CPU's numbers. `Remote` counts how often the host would have to wait. For PyTorch below Python, the device is
one of a third kind, which it knows for the rest of the process; so use it in a process of its own.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("remote")
BELOW = torch.device("remote:0")
GPUS = ("cuda", "mps")
READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero"}  # their result needs the numbers
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "mv", "dot"}  # of floating point only, on GPUs
VARYING = {"nll_loss2d_forward", "put_", "histc", "kthvalue", "median", "grid_sampler_2d_backward"}
FREE = 10**11  # bytes of memory
AUTOCAST = {
    kind: torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, f"Autocast{kind.upper()}")) for kind in GPUS
}  # what to convert
_Generator = torch.Generator
_OWNERS: dict[int, str] = {}  # the kind of device of each generator
_KEPT: list[torch.Generator] = []


class RemoteTensor(Tensor):
    """A tensor on the device; `held` is where its numbers are."""

    held: Tensor
    kind = "cuda"

    @staticmethod
    def __new__(cls, held: Tensor) -> RemoteTensor:
        made: RemoteTensor = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=BELOW,
            _extra_dispatch_keys=AUTOCAST[cls.kind],
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:
        return torch.device(self.kind, 0)

    def tolist(self) -> Any:
        """As of any tensor: PyTorch has none for subclasses."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of Remote")


class RemoteGenerator(_Generator):
    """Makes a generator of the device that is named; it draws the CPU's numbers."""

    def __new__(cls, device: Any = "cpu") -> Any:
        made = _Generator()
        _OWNERS[made._cdata] = str(device).partition(":")[0]
        _KEPT.append(made)  # or another could have its address
        return made


class _BelowPython(TorchFunctionMode):
    """Names the device as PyTorch knows it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") == "to" and args[1:] and args[1] in GPUS:
            args = (args[0], torch.device(args[1]), *args[2:])
        if kwargs.get("device") in GPUS:
            kwargs["device"] = torch.device(kwargs["device"])
        return func(*tree_map(_below, args), **tree_map(_below, kwargs))


class Remote(TorchDispatchMode):
    """While it is entered, the device `kind` works; `waits` counts the operations that wait for it, by name."""

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.kind = kind
        self._stack = ExitStack()

    def __enter__(self) -> Remote:
        super().__enter__()
        overwrite = torch.__future__.set_overwrite_module_params_on_conversion
        overwrite(True)  # a changed parameter is another wrapper
        self._stack.callback(overwrite, False)
        made = torch.tensor  # it hides what it does from dispatch modes
        there: Any = {
            (torch, "tensor"): lambda data, device="cpu", **options: made(data, **options).to(device),
            (torch, "Generator"): RemoteGenerator,
            (RemoteTensor, "kind"): self.kind,
            (torch._C, "_InferenceMode"): lambda _on: torch.no_grad(),  # where subclasses cannot be written to
            (Tensor, "pin_memory"): Tensor.clone,
            (nn.Module, "to"): _keeping_ties(nn.Module.to),
            (torch.cuda, "is_available"): lambda: self.kind == "cuda",
            (torch.cuda, "is_bf16_supported"): lambda **_: True,
            (torch.cuda, "mem_get_info"): lambda: (FREE, FREE),
            (torch.cuda, "_lazy_init"): lambda: None,
            (torch.backends.mps, "is_available"): lambda: self.kind == "mps",
        }
        for (owner, name), value in there.items():
            self._stack.enter_context(mock.patch.object(owner, name, value))
        self._stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # so that errors arrive here
        self._stack.enter_context(_BelowPython())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        from_remote = any(isinstance(tensor, RemoteTensor) for tensor in tensors)
        to_remote = from_remote
        for device in (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.device)):
            to_remote = device.type in (BELOW.type, self.kind)
        by_mask = name in ("index", "index_put", "index_put_") and any(
            isinstance(tensor, RemoteTensor) and tensor.dtype == torch.bool for tensor in tree_leaves(args[1])
        )
        copied = name == "copy_" and isinstance(args[1], RemoteTensor) and not isinstance(args[0], RemoteTensor)
        if from_remote and (name in READS or by_mask or copied or not to_remote):
            self.waits[name] += 1
        if from_remote:
            self._refuse(name, args, kwargs, tensors)
        if name.startswith("_fused_") and self.kind == "mps":
            kwargs["found_inf"] = None  # it is not looked at there
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if name == "_fused_sdp_choice":
            return 0  # step by step
        if func._schema.is_mutable:  # in place
            written = kwargs.get("out", args[0])
            return written if isinstance(result, Tensor) else result
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)] if to_remote else []
        wide = any(tensor.dtype == torch.float64 for tensor in made)
        assert not (wide and self.kind == "mps"), f"{name} in float64, which mps does not have"
        return tree_map(lambda one: RemoteTensor(one) if isinstance(one, Tensor) else one, result) if made else result

    def _refuse(self, name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> None:
        """Raise what a GPU would."""
        mixed = [tensor for tensor in tensors if not isinstance(tensor, RemoteTensor) and tensor.dim() > 0]
        assert not mixed or name in ("copy_", "index"), f"{name} of tensors on two devices"
        generator = kwargs.get("generator")
        assert generator is None or _OWNERS[generator._cdata] == self.kind, f"{name} with a generator of another device"
        floating = all(tensor.is_floating_point() for tensor in tensors)
        assert floating or name not in PRODUCTS, f"{name} of integers"
        if name.startswith("_fused_"):
            layouts = [{_layout(one) for one in of_one} for of_one in zip(*args[:4], strict=True)]
            assert all(len(kinds) == 1 for kinds in layouts), f"{name} of tensors with other strides"
        varies = name in VARYING or (name == "cumsum" and args[0].is_floating_point())
        if varies and self.kind == "cuda" and torch.are_deterministic_algorithms_enabled():
            raise RuntimeError(f"{name}_cuda does not have a deterministic implementation")


def _keeping_ties(to: Any) -> Any:
    """`Module.to`, after which a parameter with several names is still one: PyTorch copies those of subclasses."""

    def moved(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        names: dict[int, list[str]] = {}
        for name, parameter in module.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        to(module, *args, **kwargs)
        for first, *others in names.values():
            for name in others:
                path, _, last = name.rpartition(".")
                setattr(module.get_submodule(path), last, module.get_parameter(first))
        return module

    return moved


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    """Type, sizes, and the strides that matter."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return (tensor.dtype, *tensor.shape, *(stride for size, stride in sizes if size > 1))


def _below(value: Any) -> Any:
    return BELOW if isinstance(value, torch.device) and value.type in GPUS else value


def _held(value: Any) -> Any:
    """The tensor or device to compute with instead."""
    if isinstance(value, RemoteTensor):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) else value
