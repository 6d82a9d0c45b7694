"""The parameters of a training run, AdamW, and the learning rate as a function of the step (appendix D)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from llm.common.errors import DATA, UserError
from llm.common.params import Problem, at_least_zero, fraction, positive
from llm.train.divided import divided_like

BETA1, EPS = 0.9, 1e-8  # of AdamW, as in GPT-2, the book and PyTorch
FIX = "use the optimizer file that was saved with these weights"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training parameters: duration, batches, evaluation, and the optimizer."""

    epochs: int
    batch_size: int
    micro_batch_size: int | None  # rows per forward pass; gradients are accumulated. null: the whole batch
    eval_every: int  # steps between two evaluations
    eval_batches: int | None  # batches of each split to evaluate on; null: all
    save_every: int | None  # steps between two checkpoints, from which a stopped run resumes; null: no checkpoints
    keep: Literal["last", "best"]  # the final weights; best: those with the lowest validation loss
    patience: int | None  # stop after this many evaluations in a row without a lower validation loss; null: never

    lr: float
    schedule: Literal["constant", "cosine"]  # after the warm-up
    warmup_steps: int  # steps in which the learning rate rises to lr
    warmup_from: float  # the learning rate at step 0, as a fraction of lr
    decay_to: float  # the learning rate at the end of the cosine, as a fraction of lr
    weight_decay: float
    weight_decay_on: Literal["matrices", "all"]  # all: norms and biases too, as in the book
    beta2: float
    clip_norm: float | None  # the largest gradient norm; null: no clipping

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "epochs", "batch_size", "micro_batch_size", "eval_every", "eval_batches")
        yield from positive(self, "save_every", "patience", "lr", "clip_norm")
        yield from at_least_zero(self, "warmup_steps", "warmup_from", "decay_to", "weight_decay")
        yield from fraction(self, "beta2")
        for name in ("warmup_from", "decay_to"):
            if getattr(self, name) > 1:
                yield name, f"{getattr(self, name)} is above 1", "set it to a fraction of lr, such as 0.1"
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            what = f"{self.batch_size} is not a multiple of micro_batch_size ({self.micro_batch_size})"
            yield "batch_size", what, f"set it to a multiple of {self.micro_batch_size}"


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
