"""AdamW, and the learning rate as a function of the step (appendix D)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from llm.common.errors import DATA, UserError
from llm.train.config import TrainConfig
from llm.train.divided import divided_like

BETA1, EPS = 0.9, 1e-8  # of AdamW, as in GPT-2, the book and PyTorch
FIX = "use the optimizer file that was saved with these weights"


def lr_at(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 0): linear warm-up, then constant or cosine.

    `steps` is the planned number, even if `patience` ends the run earlier.
    """
    if step < config.warmup_steps:
        return config.lr * (config.warmup_from + (1 - config.warmup_from) * step / config.warmup_steps)
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (config.decay_to + (1 - config.decay_to) * 0.5 * (1 + math.cos(math.pi * done)))


class AdamW:
    """AdamW (Loshchilov and Hutter, 2019) over the trainable parameters of a model.

    The results are bit-identical to `torch.optim.AdamW(fused=True)`. That class imports PyTorch's compiler, which
    takes a second; this one calls the same kernel without it.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.weights = trainable_parameters(model)
        self.moments: dict[str, dict[str, Tensor]] = {}  # by name: exp_avg, exp_avg_sq and step, the number of updates
        self._config = config

    @torch.no_grad()
    def step(self, lr: float, skip: Tensor | None = None) -> None:
        """Update every parameter that has a gradient, unless the number in `skip` is 1; the host need not know it."""
        smallest = {"matrices": 2, "all": 0}[self._config.weight_decay_on]  # number of dimensions
        moved = {name: p for name, p in self.weights.items() if p.grad is not None}
        self._update({name: p for name, p in moved.items() if p.dim() >= smallest}, lr, self._config.weight_decay, skip)
        self._update({name: p for name, p in moved.items() if p.dim() < smallest}, lr, 0.0, skip)

    def _update(self, weights: Mapping[str, nn.Parameter], lr: float, weight_decay: float, skip: Tensor | None) -> None:
        for name, p in weights.items():
            if name not in self.moments:
                step = torch.zeros((), device=p.device)
                self.moments[name] = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p), "step": step}
        moments = [self.moments[name] for name in weights]
        adamw(
            list(weights.values()),
            [cast(Tensor, p.grad) for p in weights.values()],
            [kinds["exp_avg"] for kinds in moments],
            [kinds["exp_avg_sq"] for kinds in moments],
            [],
            [kinds["step"] for kinds in moments],
            fused=True,
            found_inf=skip,
            amsgrad=False,
            maximize=False,
            lr=lr,
            beta1=BETA1,
            beta2=self._config.beta2,
            eps=EPS,
            weight_decay=weight_decay,
        )

    def zero_grad(self) -> None:
        for parameter in self.weights.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """The moments as NAME.exp_avg, NAME.exp_avg_sq and NAME.step, not copied."""
        return {f"{name}.{kind}": tensor for name, kinds in self.moments.items() for kind, tensor in kinds.items()}

    def load(self, state: Mapping[str, Tensor], where: str) -> None:
        """Load a copy of the result of `state`.

        Raises UserError at `where`, and loads nothing, if names or shapes do not match the weights.
        """
        found: dict[str, dict[str, tuple[int, ...]]] = {}  # shapes; tensors are read one after the other
        for key, tensor in state.items():
            name, _, kind = key.rpartition(".")
            found.setdefault(name, {})[kind] = tuple(tensor.shape)
        for name, shapes in found.items():
            if name not in self.weights:
                raise UserError(where, f"{name} is not a trainable weight of this model", FIX, DATA)
            shape = tuple(self.weights[name].shape)
            if shapes != (wanted := {"exp_avg": shape, "exp_avg_sq": shape, "step": ()}):
                raise UserError(where, f"{name} has {shapes}, not {wanted}", FIX, DATA)
        self.moments = {}
        for name, shapes in found.items():
            p = self.weights[name]
            read = {kind: state[f"{name}.{kind}"].to(p.device, torch.float32, copy=True) for kind in shapes}
            self.moments[name] = {kind: divided_like(t if kind == "step" else p, t) for kind, t in read.items()}


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name; a shared one occurs once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
