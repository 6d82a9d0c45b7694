"""What a task may bring of its own: evaluations by any function, measures of updates, batches with more fields."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm.common.errors import Terminated
from llm.data.batches import Batch
from llm.train.callbacks import Measures
from llm.train.history import History
from llm.train.loop import fit
from llm.train.resume import TrainingCheckpoints
from llm.train.task import Callback, Sums, Task, Training
from tests import tiny
from tests.tiny import FP32

STEPS = 6
CONFIG = replace(tiny.TRAIN, eval_every=3, warmup_steps=0, schedule="constant", lr=0.1)


@dataclass(frozen=True, kw_only=True)
class Weighted(Batch):
    weights: Tensor  # (B,)
    total: int

    @property
    def count(self) -> int:
        return self.total


class Sampled:
    """Batches computed from the weights of the model; each is used for two updates."""

    def __init__(self, model: nn.Linear) -> None:
        self.model, self.sampled = model, 0

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, step: int) -> Weighted:
        if step % 2 == 0:
            self.sampled += 1
            inputs = torch.randn(6, 2, generator=torch.Generator().manual_seed(step)) + self.model.weight.detach().sum()
            self.batch = Weighted(inputs, torch.zeros(6), weights=torch.arange(6.0), total=12)
        return self.batch


def loss(model: nn.Module, batch: Batch) -> Sums:
    assert isinstance(batch, Weighted)
    return {"loss": (model(batch.inputs)[:, 0].square() * batch.weights).sum()}


def train(
    config: Any = CONFIG, *callbacks: Callback, score: Callable[[nn.Module], float] | None = None
) -> tuple[nn.Linear, History, Sampled]:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    source = Sampled(model)
    measures = Measures(lambda training: {"norm": training.gradient_norm, "loss": training.batch_loss}, dict)
    evaluations = {"val": lambda model: {"loss": score(model) if score else 0.0, "weight": model.weight.sum().item()}}
    return model, fit(Task(model, loss, source, evaluations), config, FP32, 1, [measures, *callbacks]), source


def test_an_evaluation_may_be_any_function_of_the_model() -> None:
    model, history, _ = train()
    assert [row["step"] for row in history.rows] == [0, 3, 6]
    assert history.last["val_weight"] == pytest.approx(model.weight.sum().item())
    assert "train_loss" not in history.last


def test_keep_and_patience_follow_such_an_evaluation() -> None:
    values = iter([3.0, 1.0, 2.0, 2.0, 0.0])
    config = replace(CONFIG, eval_every=1, keep="best", patience=2)
    model, history, _ = train(config, score=lambda _: next(values))
    assert (history.step, history.best["step"]) == (3, 1)
    assert model.weight.sum().item() == history.best["val_weight"] != history.last["val_weight"]


def test_measures_are_the_means_over_the_updates_since_the_row_before() -> None:
    seen: list[tuple[float, float]] = []

    class Watch(Callback):
        def on_update(self, training: Training) -> None:
            seen.append((training.gradient_norm, training.batch_loss))

    _, history, _ = train(CONFIG, Watch())
    assert "norm" not in history.rows[0]
    for row, updates in zip(history.rows[1:], (seen[:3], seen[3:]), strict=True):
        assert row["norm"] == pytest.approx(sum(norm for norm, _ in updates) / 3)
        assert row["loss"] == pytest.approx(sum(value for _, value in updates) / 3)
    assert len({row["norm"] for row in history.rows[1:]}) == 2


def test_batches_with_more_fields_are_split_and_divided_by_their_own_count() -> None:
    batch = Weighted(torch.zeros(4, 2), torch.zeros(4), weights=torch.arange(4.0), total=40)
    parts = list(batch.split(3))
    assert [part.weights.tolist() for part in parts] == [[0, 1, 2], [3]]
    assert [part.count for part in parts] == [40, 40]
    assert batch.to(torch.device("meta")).weights.is_meta
    whole, *_ = train()
    for size in (1, 2):
        model, *_ = train(replace(CONFIG, micro_batch_size=size))
        torch.testing.assert_close(model.weight, whole.weight)


# Stopped and resumed


class StopAfter(Callback):
    def __init__(self, step: int, saved: TrainingCheckpoints) -> None:
        self.step, self.saved = step, saved

    def on_update(self, training: Training) -> None:
        if training.history.step == self.step:
            self.saved.on_signal(signal.SIGTERM, None)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_run_is_saved_only_between_the_updates_that_belong_together(step: int, tmp_path: Path) -> None:
    whole, history, _ = train()
    saved = TrainingCheckpoints(tmp_path, 100, print, together=2)
    with pytest.raises(Terminated, match=f"step {step + step % 2} is saved"):
        train(CONFIG, StopAfter(step, saved), saved)
    model, again, _ = train(CONFIG, TrainingCheckpoints(tmp_path, 100, print, together=2))
    assert torch.equal(model.weight, whole.weight)
    assert again.rows == history.rows  # with the measures from before the stop


def test_states_are_saved_at_a_multiple(tmp_path: Path) -> None:
    train(CONFIG, TrainingCheckpoints(tmp_path, 4, print, together=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000004", "step-000000006"]
