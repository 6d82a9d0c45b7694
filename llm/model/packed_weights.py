"""Linear layers for CPUs: bf16 weights in the order in which oneDNN reads them, laid out once.

A decoding step is one read of all weights. In PyTorch's own order oneDNN rearranges them in every step, which costs as
much again as reading them; and no other order takes GELU with the product before it. Packed weights cannot be saved,
nor changed: a model that goes on training is packed beside.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT, MLP
from llm.runtime.device import RuntimeConfig

EVALUATION_ROWS = 512  # about
M = TypeVar("M", bound=nn.Module)


class PackedLinear(nn.Module):
    """y = x W^T + b of a Linear in bf16, or GELU of that, for about `rows` rows of x at once."""

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
    """An MLP whose GELU is taken of what its first product adds up, before that is rounded and written."""

    def __init__(self, mlp: MLP, rows: int) -> None:
        super().__init__()
        self.c_fc = PackedLinear(mlp.c_fc, rows, gelu=True)
        self.c_proj = PackedLinear(mlp.c_proj, rows)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C), in bf16."""
        return self.c_proj(self.c_fc(x))  # type: ignore[no-any-return]


def pack_for_decoding(model: M, config: RuntimeConfig, rows: int) -> M:
    """`model` with bf16 weights where that is the precision, and packed for so many rows where the CPU can."""
    if config.precision == "fp32":
        return model
    model.to(torch.bfloat16)
    if _packs(config):
        _pack(model, rows)
    return model


def packed_copy(model: M, config: RuntimeConfig, rows: int) -> M:
    """A GPT to decode with or evaluate under autocast, which `model` may train on after: the same but packed.

    Packed weights are of now, and take the place of those that autocast would keep; all others it shares. Where nothing
    can be packed it is `model` itself, as of other models, which may take their weights apart.
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
    """Whether this build of PyTorch has oneDNN, and oneDNN bf16 for this CPU."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(there and torch.ops.mkldnn._is_mkldnn_bf16_supported())
