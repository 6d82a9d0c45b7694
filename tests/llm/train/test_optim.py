"""The learning rate, AdamW compared with PyTorch's, and the checks of the training parameters."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm.common.errors import UserError
from llm.model.gpt import GPT
from llm.train.config import TrainConfig
from llm.train.optim import AdamW, lr_at
from tests import tiny

ROOT = Path(__file__).parents[3]

TRAIN = replace(
    tiny.TRAIN,
    epochs=15,
    batch_size=4,
    eval_every=5,
    eval_batches=1,
    lr=1e-3,
    warmup_steps=27,
    warmup_from=0.01,
    decay_to=0.01,
    beta2=0.999,
)


def config(**changes: Any) -> TrainConfig:
    return replace(TRAIN, **changes)


# Learning rate


def book_schedule(steps: int, warmup: int, initial: float, peak: float, lowest: float) -> list[float]:
    """The loop of appendix D."""
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


def test_schedule_equals_that_of_appendix_d() -> None:
    ours = [lr_at(step, 135, config()) for step in range(135)]
    assert ours == pytest.approx(book_schedule(135, 27, 1e-5, 1e-3, 1e-5), rel=1e-12)


@pytest.mark.parametrize(
    ("step", "lr"),
    [(0, 1e-5), (1, 4.6667e-5), (26, 9.6333e-4), (27, 1e-3), (81, 5.05e-4), (134, 1.0209e-5), (135, 1e-5)],
)
def test_schedule_of_135_steps_with_27_of_warmup(step: int, lr: float) -> None:
    assert lr_at(step, 135, config()) == pytest.approx(lr, rel=1e-4)


def test_the_constant_schedule_stays_at_lr_after_the_warmup() -> None:
    rates = [lr_at(step, 10, config(schedule="constant", warmup_steps=2, warmup_from=0.0)) for step in range(10)]
    assert rates == [0.0, 5e-4, *[1e-3] * 8]


def test_without_warmup_the_rate_starts_at_lr() -> None:
    assert lr_at(0, 10, config(warmup_steps=0)) == 1e-3


def test_a_warmup_longer_than_the_run_never_reaches_lr() -> None:
    assert max(lr_at(step, 10, config(warmup_steps=20)) for step in range(10)) < 1e-3


# AdamW


def gradients_of(model: nn.Module, update: int) -> None:
    """Random gradients, the same for models of the same shape; a parameter has none in every third update."""
    generator = torch.Generator().manual_seed(update)
    for number, parameter in enumerate(model.parameters()):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient if parameter.requires_grad and (number + update) % 3 else None


def updated(model: nn.Module, optimizer: AdamW, first: int, count: int) -> dict[str, Tensor]:
    """The weights after `count` updates, each with another learning rate."""
    for update in range(first, first + count):
        gradients_of(model, update)
        optimizer.step(0.1 / (1 + update))
        optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def updated_by_pytorchs(model: nn.Module, config: TrainConfig, count: int) -> dict[str, Tensor]:
    """The same with PyTorch's class; parameters with one dimension are norms and biases."""
    parameters = list(model.parameters())
    flat_decay = config.weight_decay if config.weight_decay_on == "all" else 0.0
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": flat_decay},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, config.beta2), fused=True)
    for update in range(count):
        gradients_of(model, update)
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + update)
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


@pytest.mark.parametrize("tie_head", [False, True])
@pytest.mark.parametrize("decaying", ["matrices", "all"])
def test_updates_are_bit_identical_to_pytorchs_class(model_config: Any, decaying: str, tie_head: bool) -> None:
    ours = GPT(model_config(tie_head=tie_head, qkv_bias=True))
    theirs, told = copy.deepcopy(ours), config(weight_decay_on=decaying, weight_decay=0.5)
    assert equal(updated(ours, AdamW(ours, told), 0, 4), updated_by_pytorchs(theirs, told, 4))


def test_the_first_update_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    start = model.weight.item()
    optimizer = AdamW(model, config(weight_decay=0.5))
    model.weight.grad = torch.full((1, 1), 3.0)
    optimizer.step(0.1)
    assert model.weight.item() == pytest.approx(start * (1 - 0.1 * 0.5) - 0.1, rel=1e-5)  # Adam's first step is lr


@pytest.mark.parametrize("decaying", ["matrices", "all"])
def test_weight_decay_applies_to_the_given_parameters(decaying: str) -> None:
    model = nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 2))
    optimizer = AdamW(model, config(weight_decay=0.5, weight_decay_on=decaying))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)  # only weight decay changes the weights
    optimizer.step(0.1)
    expected = {"0.weight": 1.0, "0.bias": 1.0, "1.weight": 0.95, "1.bias": 1.0}
    if decaying == "all":
        expected = dict.fromkeys(expected, 0.95)
    assert {name: parameter.max().item() for name, parameter in model.named_parameters()} == pytest.approx(expected)


@pytest.mark.parametrize("decaying", ["matrices", "all"])
def test_weights_that_are_frozen_or_have_no_gradient_do_not_change(model_config: Any, decaying: str) -> None:
    model = GPT(model_config(tie_head=False))
    model.transformer.wte.requires_grad_(False)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = AdamW(model, config(weight_decay_on=decaying))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.lm_head.weight.grad = None
    optimizer.step(0.1)
    still = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert still == {"transformer.wte.weight", "lm_head.weight"}
    assert "transformer.wte.weight" not in optimizer.weights
    assert not any(key.startswith(("transformer.wte.", "lm_head.")) for key in optimizer.state())


def test_another_optimizer_continues_from_a_state_without_changing_it(model_config: Any) -> None:
    whole = GPT(model_config())
    halves = copy.deepcopy(whole)
    expected = updated(whole, AdamW(whole, config()), 0, 4)
    first, second = AdamW(halves, config()), AdamW(halves, config())
    updated(halves, first, 0, 2)
    state = {key: tensor.clone() for key, tensor in first.state().items()}
    second.load(first.state(), "a file")
    assert equal(updated(halves, second, 2, 2), expected)
    assert equal(first.state(), state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight.exp_avg": torch.zeros(2, 3)}, "weight has {'exp_avg': (2, 3), 'exp_avg_sq': (2, 2), 'step': ()}"),
        ({"bias.step": torch.zeros(1)}, "bias has {'exp_avg': (2,), 'exp_avg_sq': (2,), 'step': (1,)}"),
        ({"bias.exp_avg_sq": None}, "bias has {'exp_avg': (2,), 'step': ()}"),
        ({"bias.max_exp_avg_sq": torch.zeros(2)}, "'max_exp_avg_sq': (2,)}"),
        ({"other.exp_avg": torch.zeros(2)}, "other is not a trainable weight of this model"),
    ],
)
def test_a_state_of_other_weights_is_refused(change: dict[str, Tensor | None], said: str) -> None:
    model = nn.Linear(2, 2)
    optimizer = AdamW(model, config())
    updated(model, optimizer, 0, 3)
    before = {key: tensor.clone() for key, tensor in optimizer.state().items()}
    changed = {key: tensor for key, tensor in (before | change).items() if tensor is not None}
    with pytest.raises(UserError) as raised:
        optimizer.load(changed, "models/pretrain/optimizer.safetensors")
    assert raised.value.where == "models/pretrain/optimizer.safetensors"
    assert said in raised.value.what
    assert equal(optimizer.state(), before)


def test_moments_are_kept_in_fp32() -> None:
    model = nn.Linear(2, 2)
    optimizer = AdamW(model, config())
    updated(model, optimizer, 0, 3)
    optimizer.load({key: tensor.double() for key, tensor in optimizer.state().items()}, "a file")
    assert {tensor.dtype for tensor in optimizer.state().values()} == {torch.float32}


TRAINS = """
import sys, torch
from tests.llm.tiny_run import train
for task in ("pretrain", "spam", "instruct"):
    model, _ = train(task)
print("torch._dynamo" in sys.modules)
torch.optim.AdamW(model.parameters(), fused=True)
print("torch._dynamo" in sys.modules)
"""


@pytest.mark.slow
def test_training_does_not_load_the_compiler_and_pytorchs_class_does() -> None:
    done = subprocess.run([sys.executable, "-c", TRAINS], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"


# Checks


def test_valid_parameters_have_no_problems() -> None:
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
def test_a_wrong_value_is_a_problem_of_its_parameter(changes: dict[str, Any], field: str) -> None:
    assert field in [name for name, *_ in config(**changes).problems()]
