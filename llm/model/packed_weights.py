"""bf16 linear layers for CPUs, with weights in the memory layout of oneDNN.

A decoding step reads all weights once. With PyTorch's layout, oneDNN rearranges them at every step, which takes as
long as reading them, and GELU cannot be fused into the matrix product. Packed weights cannot be saved or trained, so a
model in training gets a packed copy.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT, MLP
from llm.runtime.device import RuntimeConfig

EVALUATION_ROWS = 512  # typical number of rows of an evaluation's products
M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Module):
    """A Linear in bf16, optionally followed by GELU, laid out for inputs of about `rows` rows."""

    def __init__(self, linear: nn.Linear, rows: int, gelu: bool = False) -> None:
        super().__init__()
        self.then: tuple[str, list[Any], str] = ("gelu", [], "tanh") if gelu else ("none", [], "")
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(torch.bfloat16), rows)
        self.bias = None if linear.bias is None else linear.bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in bf16."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(torch.bfloat16), self.packed, self.bias, *self.then)
        return y


class PackedMLP(nn.Module):
    """An MLP whose GELU is fused into the first product, before the result is rounded to bf16."""

    def __init__(self, mlp: MLP, rows: int) -> None:
        super().__init__()
        self.c_fc = PackedLinear(mlp.c_fc, rows, gelu=True)
        self.c_proj = PackedLinear(mlp.c_proj, rows)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), in bf16."""
        return self.c_proj(self.c_fc(x))  # type: ignore[no-any-return]


def pack_for_decoding(model: M, config: RuntimeConfig, rows: int) -> M:
    """Convert `model` to bf16 if that is the precision, pack it if the CPU supports it, and return it."""
    if config.precision == "fp32":
        return model
    model.to(torch.bfloat16)
    if _packs(config):
        _pack(model, rows)
    return model


def packed_copy(model: M, config: RuntimeConfig, rows: int) -> M:
    """A packed copy of a GPT, to decode or evaluate under autocast while `model` goes on training.

    The copy has the current linear weights and shares all others with `model`. If nothing can be packed, or `model` is
    not a GPT, returns `model` itself.
    """
    if not isinstance(model, GPT) or not _packs(config):
        return model
    shared = {id(parameter): parameter for parameter in model.parameters()}
    other = copy.deepcopy(model, shared)
    _pack(other, rows)
    return other


def _packs(config: RuntimeConfig) -> bool:
    return config.precision == "bf16" and config.device == "cpu" and can_pack()


def _pack(module: nn.Module, rows: int) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child, rows))
        elif type(child) is MLP and type(child.c_fc) is type(child.c_proj) is nn.Linear:
            setattr(module, name, PackedMLP(child, rows))
        else:
            _pack(child, rows)


def can_pack() -> bool:
    """Whether PyTorch has oneDNN, and oneDNN supports bf16 on this CPU."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())
