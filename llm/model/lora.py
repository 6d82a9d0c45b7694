"""LoRA (appendix E): replaces every Linear of a model by a frozen one plus a trainable low-rank update.

y = W x + scale * B (A x), with A (in, rank) and B (rank, out) as in the book.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.model.meta import on_meta_device
from llm.model.trainable import LoraConfig

FUSED = ("c_attn",)  # combines three layers: queries, keys and values each get an A and a B, as in the book


class LoraLinear(nn.Linear):
    """A Linear with a low-rank update; it takes over the weight and bias of `linear` under their names.

    `sizes` are the outputs of each layer that it combines; each has an A and a B of its own. `lora_A` is
    (parts, in, rank). `lora_B` is (parts, rank, size) if all sizes are equal, otherwise (rank, out).
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig, sizes: Sequence[int], generator: torch.Generator) -> None:
        with on_meta_device():
            super().__init__(linear.in_features, linear.out_features)
        self.weight, self.bias = linear.weight, linear.bias
        self.scale, self.sizes = config.scale, list(sizes)
        parts, same = len(sizes), len(set(sizes)) == 1
        a = torch.empty(parts, linear.in_features, config.rank, device="cpu")  # the same values for every device
        for part in a:  # the bound is 1 / sqrt(rank), as in the book; for (rank, in) it would be smaller
            nn.init.kaiming_uniform_(part, a=math.sqrt(5), generator=generator)
        shape = (parts, config.rank, sizes[0]) if same else (config.rank, linear.out_features)
        b = torch.zeros(shape, device="cpu")
        self.lora_A, self.lora_B = (nn.Parameter(t.to(linear.weight.device)) for t in (a, b))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        down = self.scale * torch.einsum("...i,pir->...pr", x, self.lora_A)
        if self.lora_B.ndim == 3:
            up = torch.einsum("...pr,pro->...po", down, self.lora_B).flatten(-2)
        else:
            pairs = zip(down.unbind(-2), torch.split(self.lora_B, self.sizes, dim=-1), strict=True)
            up = torch.cat([part @ b for part, b in pairs], dim=-1)
        return F.linear(x, self.weight, self.bias) + up

    def merged(self) -> nn.Linear:
        """A plain Linear that computes the same. The original weight is not changed, since others may share it."""
        with on_meta_device():
            linear = nn.Linear(self.in_features, self.out_features)
        if self.lora_B.ndim == 3:
            update = (self.lora_A @ self.lora_B).transpose(1, 2).flatten(0, 1)  # (out, in)
        else:
            pairs = zip(self.lora_A, torch.split(self.lora_B, self.sizes, dim=-1), strict=True)
            update = torch.cat([(a @ b).T for a, b in pairs])
        linear.weight = nn.Parameter(self.weight.detach() + self.scale * update.detach(), requires_grad=False)
        linear.bias = self.bias
        return linear


def add_lora(module: nn.Module, config: LoraConfig, seed: int) -> None:
    """Freeze `module` and add LoRA to every Linear in it. Its outputs stay the same until it trains.

    The initial values depend only on `seed` and the order of the modules.
    """
    generator = torch.Generator().manual_seed(seed)
    module.requires_grad_(False)
    found = [
        (p, name, child) for p in module.modules() for name, child in p.named_children() if type(child) is nn.Linear
    ]
    assert found, "no plain Linear to add LoRA to"
    for parent, name, linear in found:
        setattr(parent, name, LoraLinear(linear, config, fused_sizes(parent, name, linear), generator))


def fused_sizes(parent: nn.Module, name: str, linear: nn.Linear) -> list[int]:
    """The outputs of each layer that the child `linear` of `parent` combines: those of q, k and v, or all."""
    if name not in FUSED:
        return [linear.out_features]
    heads = getattr(parent, "heads", (1, 1, 1))  # of `Attention`
    return [linear.out_features // sum(heads) * number for number in heads]


def merge_lora(module: nn.Module) -> dict[str, Tensor]:
    """Merge the updates into the weights of plain Linears, and return all A and B by name.

    All parameters stay frozen. A tied head is no longer tied, because the update belongs to the head alone.
    """
    adapter = {name: t.detach() for name, t in module.state_dict().items() if name.endswith((".lora_A", ".lora_B"))}
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLinear):
                setattr(parent, name, child.merged())
    return adapter
