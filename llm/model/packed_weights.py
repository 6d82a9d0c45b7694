"""Linear layers for CPUs, with weights in the memory layout of oneDNN.

A decoding step reads all weights once, for few rows. In PyTorch's layout that is slow:

- bf16: oneDNN rearranges the weights at every step, which takes as long as reading them, and GELU cannot be fused into
  the matrix product.
- fp32, with AVX2: MKL and oneDNN read them at half the speed of the memory or less.

Packed weights cannot be saved or trained, so a model in training gets a packed copy.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT, MLP
from llm.runtime.device import RuntimeConfig

EVALUATION_ROWS = 512  # typical number of rows of an evaluation's products
FP32_ROWS = 16  # this layout is the fastest for 1 to 64 rows, and adds in the same order for any number of rows
FP32_WEIGHTS = 2**18  # a smaller matrix stays in the cache, where MKL is as fast
M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Module):
    """A Linear in `dtype`, optionally followed by GELU, laid out for inputs of about `rows` rows."""

    def __init__(self, linear: nn.Linear, rows: int, dtype: torch.dtype = torch.bfloat16, gelu: bool = False) -> None:
        super().__init__()
        self.dtype = dtype
        self.then: tuple[str, list[Any], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype), rows)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in `dtype`."""
        product = torch.ops.mkldnn._linear_pointwise.default
        return product(x.to(self.dtype), self.packed, self.bias, *self.then)  # type: ignore[no-any-return]


class PackedMLP(nn.Module):
    """An MLP in bf16 whose GELU is fused into the first product, before the result is rounded to bf16."""

    def __init__(self, mlp: MLP, rows: int) -> None:
        super().__init__()
        self.c_fc = PackedLinear(mlp.c_fc, rows, gelu=True)
        self.c_proj = PackedLinear(mlp.c_proj, rows)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), in bf16."""
        return self.c_proj(self.c_fc(x))  # type: ignore[no-any-return]


def pack_for_decoding(model: M, config: RuntimeConfig, rows: int) -> M:
    """Convert `model` to bf16 if that is the precision, pack it where that is faster, and return it."""
    if config.precision == "bf16":
        model.to(torch.bfloat16)
        if _packs_bf16(config):
            _pack_bf16(model, rows)
    elif config.device == "cpu" and can_pack_fp32():
        # Portable products of unpacked weights take longer to start, so that packing small matrices pays too.
        _pack_fp32(model, smallest=1 if config.kernels == "portable" else FP32_WEIGHTS)
    return model


def packed_copy(model: M, config: RuntimeConfig, rows: int) -> M:
    """A packed copy of a GPT, to decode or evaluate under autocast while `model` goes on training in bf16.

    The copy has the current linear weights and shares all others with `model`. If nothing can be packed, or `model` is
    not a GPT, returns `model` itself.
    """
    if not isinstance(model, GPT) or not _packs_bf16(config):
        return model
    shared = {id(parameter): parameter for parameter in model.parameters()}
    other = copy.deepcopy(model, shared)
    _pack_bf16(other, rows)
    return other


def _packs_bf16(config: RuntimeConfig) -> bool:
    return config.precision == "bf16" and config.device == "cpu" and can_pack_bf16()


def _pack_bf16(module: nn.Module, rows: int) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child, rows))
        elif type(child) is MLP and type(child.c_fc) is type(child.c_proj) is nn.Linear:
            setattr(module, name, PackedMLP(child, rows))
        else:
            _pack_bf16(child, rows)


def _pack_fp32(module: nn.Module, smallest: int) -> None:
    for name, child in module.named_children():
        if type(child) is not nn.Linear:
            _pack_fp32(child, smallest)
        elif child.weight.numel() >= smallest:
            setattr(module, name, PackedLinear(child, FP32_ROWS, torch.float32))


def adds_in_one_order(model: nn.Module) -> bool:
    """Whether all products of `model` have the same bits for any number of rows: all are packed in fp32."""
    kinds = [module for module in model.modules() if isinstance(module, nn.Linear | PackedLinear)]
    return all(isinstance(module, PackedLinear) and module.dtype == torch.float32 for module in kinds)


def can_pack_bf16() -> bool:
    """Whether PyTorch has oneDNN, and oneDNN supports bf16 on this CPU."""
    return _has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def can_pack_fp32() -> bool:
    """Whether PyTorch has oneDNN and uses AVX2, for which fp32 was measured; portable kernels limit any CPU to it."""
    return _has_onednn() and torch.backends.cpu.get_cpu_capability() == "AVX2"


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
