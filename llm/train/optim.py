"""What a training run is told, AdamW, and its learning rate as a plain function of the step (appendix D)."""

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

BETA1, EPS = 0.9, 1e-8  # of AdamW, as GPT-2, the book and PyTorch have them
OF_THESE_WEIGHTS = "take the optimizer that was saved with these weights"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long to train, in which portions, how the weights move, and how often to look."""

    epochs: int
    batch_size: int
    micro_batch_size: int | None  # rows at once; the gradients of a batch add up. null: the whole batch
    eval_every: int  # steps between two evaluations
    eval_batches: int | None  # batches of each split to evaluate on; null: all
    save_every: int | None  # steps between two saved states, which a run that was stopped goes on from; null: never
    keep: Literal["last", "best"]  # the weights to end with; best: those of the lowest validation loss
    patience: int | None  # evaluations in a row without a lower one until the run ends; null: it runs to its end

    lr: float
    schedule: Literal["constant", "cosine"]  # after the warm-up
    warmup_steps: int  # steps on which the learning rate rises to lr
    warmup_from: float  # where it begins, as a share of lr
    decay_to: float  # where the cosine ends, as a share of lr
    weight_decay: float
    weight_decay_on: Literal["matrices", "all"]  # all: norms and biases too, as the book
    beta2: float
    clip_norm: float | None  # gradients longer than this are scaled down to it

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from positive(self, "epochs", "batch_size", "micro_batch_size", "eval_every", "eval_batches")
        yield from positive(self, "save_every", "patience", "lr", "clip_norm")
        yield from at_least_zero(self, "warmup_steps", "warmup_from", "decay_to", "weight_decay")
        yield from fraction(self, "beta2")
        for name in ("warmup_from", "decay_to"):
            if getattr(self, name) > 1:
                yield name, f"{getattr(self, name)} is above 1", "give a share of lr, such as 0.1"
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            what = f"{self.batch_size} is not a multiple of micro_batch_size ({self.micro_batch_size})"
            yield "batch_size", what, f"take a multiple of {self.micro_batch_size}"


def lr_at(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of one of `steps` steps: linear warm-up, then constant or cosine.

    `steps` are those planned: a run that `patience` ends early has gone through the first part of its schedule.
    """
    if step < config.warmup_steps:
        return config.lr * (config.warmup_from + (1 - config.warmup_from) * step / config.warmup_steps)
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * (config.decay_to + (1 - config.decay_to) * 0.5 * (1 + math.cos(math.pi * done)))


class AdamW:
    """AdamW (Loshchilov and Hutter, 2019) over what trains of a model, as `torch.optim.AdamW(fused=True)` to the bit.

    That class loads PyTorch's compiler when it is built, which takes a second; what it calls in the end needs none.
    Weight decay is on matrices, or on every parameter.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.weights = trained(model)
        self.moments: dict[str, dict[str, Tensor]] = {}  # by name: exp_avg, exp_avg_sq and step, the number of updates
        self._config = config

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update every parameter that has a gradient."""
        smallest = {"matrices": 2, "all": 0}[self._config.weight_decay_on]  # in dimensions
        moved = {name: p for name, p in self.weights.items() if p.grad is not None}
        self._update({name: p for name, p in moved.items() if p.dim() >= smallest}, lr, self._config.weight_decay)
        self._update({name: p for name, p in moved.items() if p.dim() < smallest}, lr, 0.0)

    def _update(self, weights: Mapping[str, nn.Parameter], lr: float, weight_decay: float) -> None:
        self.moments |= {name: _at_rest(p) for name, p in weights.items() if name not in self.moments}
        of_each = [self.moments[name] for name in weights]
        adamw(
            list(weights.values()),
            [cast(Tensor, p.grad) for p in weights.values()],
            [moments["exp_avg"] for moments in of_each],
            [moments["exp_avg_sq"] for moments in of_each],
            [],
            [moments["step"] for moments in of_each],
            fused=True,
            amsgrad=False,
            maximize=False,
            lr=lr,
            beta1=BETA1,
            beta2=self._config.beta2,
            eps=EPS,
            weight_decay=weight_decay,
        )

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.weights.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """What it remembers, as NAME.exp_avg, NAME.exp_avg_sq and NAME.step: no copies."""
        return {f"{name}.{kind}": tensor for name, kinds in self.moments.items() for kind, tensor in kinds.items()}

    def load(self, state: Mapping[str, Tensor], where: str) -> None:
        """Remember copies of what `state` returned, of this or another process.

        Raises UserError, which names the file `where`, if that is not of these weights; all is as it was then.
        """
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in state.items():
            name, _, kind = key.rpartition(".")
            found.setdefault(name, {})[kind] = tensor
        for name, kinds in found.items():
            if name not in self.weights:
                raise UserError(where, f"{name} does not train here", OF_THESE_WEIGHTS, DATA)
            shapes = {kind: tuple(tensor.shape) for kind, tensor in kinds.items()}
            shape = tuple(self.weights[name].shape)
            if shapes != (wanted := {"exp_avg": shape, "exp_avg_sq": shape, "step": ()}):
                raise UserError(where, f"{name} has {shapes}, not {wanted}", OF_THESE_WEIGHTS, DATA)
        self.moments = {
            name: {kind: t.to(self.weights[name].device, torch.float32, copy=True) for kind, t in kinds.items()}
            for name, kinds in found.items()
        }


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """What trains, by name; what is shared stands there once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _at_rest(parameter: nn.Parameter) -> dict[str, Tensor]:
    step = torch.zeros((), device=parameter.device)
    return {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter), "step": step}
