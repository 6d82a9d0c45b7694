"""The learning rate as a table, AdamW's groups, and the checks on what training is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from llm.model import GPT
from llm.optim import TrainConfig, adamw, lr_at

VALUES: dict[str, Any] = {
    "epochs": 15,
    "batch_size": 4,
    "micro_batch_size": None,
    "eval_every": 5,
    "eval_batches": 1,
    "save_every": None,
    "keep": "last",
    "patience": None,
    "lr": 1e-3,
    "schedule": "cosine",
    "warmup_steps": 27,
    "warmup_from": 0.01,
    "decay_to": 0.01,
    "weight_decay": 0.1,
    "weight_decay_on": "matrices",
    "beta2": 0.999,
    "clip_norm": 1.0,
}


def config(**changes: Any) -> TrainConfig:
    return TrainConfig(**(VALUES | changes))


# Learning rate


def book_schedule(steps: int, warmup: int, initial: float, peak: float, lowest: float) -> list[float]:
    """Appendix D's loop, its bookkeeping kept."""
    rates, global_step, increment = [], -1, (peak - initial) / warmup
    for _ in range(steps):
        global_step += 1
        if global_step < warmup:
            lr = initial + global_step * increment
        else:
            progress = (global_step - warmup) / (steps - warmup)
            lr = lowest + (peak - lowest) * 0.5 * (1 + math.cos(math.pi * progress))
        rates.append(lr)
    return rates


def test_schedule_is_appendix_ds() -> None:
    ours = [lr_at(step, 135, config()) for step in range(135)]
    assert ours == pytest.approx(book_schedule(135, 27, 1e-5, 1e-3, 1e-5), rel=1e-12)


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 1e-5), (1, 4.6667e-5), (26, 9.6333e-4), (27, 1e-3), (81, 5.05e-4), (134, 1.0209e-5), (135, 1e-5)],
)
def test_schedule_of_135_steps_with_27_of_warmup(step: int, lr: float) -> None:
    assert lr_at(step, 135, config()) == pytest.approx(lr, rel=1e-4)


def test_constant_schedule_stays_after_the_warmup() -> None:
    rates = [lr_at(step, 10, config(schedule="constant", warmup_steps=2, warmup_from=0.0)) for step in range(10)]
    assert rates == [0.0, 5e-4, *[1e-3] * 8]


def test_no_warmup_begins_at_the_top() -> None:
    assert lr_at(0, 10, config(warmup_steps=0)) == 1e-3


def test_warmup_longer_than_the_run_never_reaches_the_top() -> None:
    assert max(lr_at(step, 10, config(warmup_steps=20)) for step in range(10)) < 1e-3


# AdamW


def test_matrices_decay_and_norms_and_biases_do_not(model_config: Any) -> None:
    model = GPT(model_config())
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, plain = adamw(model, config()).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert all(".ln_" in names[p] or names[p].endswith("bias") for p in plain["params"])
    assert not any(".ln_" in names[p] or names[p].endswith("bias") for p in decayed["params"])


def updated(optimizer_of: Callable[[nn.Module], torch.optim.AdamW]) -> list[float]:
    """The parameters of a norm, a matrix and its bias after one step, all of them and their gradients one before."""
    model = nn.Sequential(nn.LayerNorm(1), nn.Linear(1, 1))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.ones_like(parameter)
    optimizer_of(model).step()
    return [parameter.item() for parameter in model.parameters()]


def test_every_parameter_decays_where_that_is_asked() -> None:
    def plain(model: nn.Module) -> torch.optim.AdamW:
        return torch.optim.AdamW(model.parameters(), lr=0.001, weight_decay=0.1, fused=True)

    assert updated(lambda model: adamw(model, config(weight_decay_on="all"))) == updated(plain)
    assert updated(lambda model: adamw(model, config(weight_decay_on="matrices"))) != updated(plain)


@pytest.mark.parametrize("decaying", ["matrices", "all"])
def test_every_parameter_stands_in_one_group_once(model_config: Any, decaying: str) -> None:
    model = GPT(model_config(tie_head=True))
    grouped = [p for group in adamw(model, config(weight_decay_on=decaying)).param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("decaying", ["matrices", "all"])
def test_frozen_parameters_are_left_out(model_config: Any, decaying: str) -> None:
    model = GPT(model_config())
    model.transformer.wte.requires_grad_(False)
    grouped = [p for group in adamw(model, config(weight_decay_on=decaying)).param_groups for p in group["params"]]
    assert not any(p is model.transformer.wte.weight for p in grouped)


def test_update_is_adamws() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    start = model.weight.item()
    optimizer = adamw(model, config(lr=0.1, weight_decay=0.5))
    model.weight.grad = torch.full((1, 1), 3.0)
    optimizer.step()
    assert model.weight.item() == pytest.approx(start * (1 - 0.1 * 0.5) - 0.1, rel=1e-5)  # Adam's first step is lr


# Checks


def test_the_values_here_are_no_problem() -> None:
    assert not list(config().problems())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": -1}, "batch_size"),
        ({"micro_batch_size": 0}, "micro_batch_size"),
        ({"micro_batch_size": 3}, "batch_size"),
        ({"eval_every": 0}, "eval_every"),
        ({"eval_batches": 0}, "eval_batches"),
        ({"save_every": 0}, "save_every"),
        ({"patience": 0}, "patience"),
        ({"patience": -1}, "patience"),
        ({"lr": 0.0}, "lr"),
        ({"lr": -1.0}, "lr"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"warmup_from": 1.1}, "warmup_from"),
        ({"decay_to": 1.1}, "decay_to"),
        ({"decay_to": -0.1}, "decay_to"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"beta2": 1.0}, "beta2"),
        ({"clip_norm": 0.0}, "clip_norm"),
    ],
)
def test_wrong_value_is_a_problem_of_its_field(changes: dict[str, Any], field: str) -> None:
    assert field in [name for name, *_ in config(**changes).problems()]
