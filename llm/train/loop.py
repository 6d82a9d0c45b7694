"""The loop for pretraining, classification and instruction fine-tuning (chapter 5, appendix D)."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llm.common.errors import DIVERGED, RESOURCES, UserError, is_out_of_memory
from llm.common.seeds import derive
from llm.data.batches import Batch, BatchSource, Dataset, SequentialBatches
from llm.model import packed_weights
from llm.runtime.device import RuntimeConfig, autocast
from llm.train.history import History
from llm.train.optim import AdamW, TrainConfig, lr_at, trainable_parameters
from llm.train.task import Callback, Loss, Task, Training

Part = tuple[dict[str, float], int]  # the sums over one batch of an evaluation, and its number of targets


def fit(
    task: Task, config: TrainConfig, runtime: RuntimeConfig, seed: int, callbacks: Sequence[Callback] = ()
) -> History:
    """Train the model of `task`, and evaluate it before the first update and every `config.eval_every` updates.

    `config.patience` may end the run early; the learning rate still follows the schedule for all batches. If
    `config.keep` is "best", the model ends with the weights of the row `history.best`; the history has all rows.

    Dropout is seeded from (seed, step, micro-batch) before each forward pass, so evaluations, samples and logging
    never change the weights. Callbacks run in the order given. Raises UserError if a loss or gradient is not finite;
    the weights are then those before that update.
    """
    steps = len(task.train)
    training = Training(task, config, runtime, AdamW(task.model, config), History(), steps)
    for callback in callbacks:
        callback.on_start(training)
    history = training.history
    history.planned = steps
    if not history.rows:
        evaluate_now(training, callbacks, lr_at(0, steps, config))
    while not training.over:
        started = time.perf_counter()
        lr = lr_at(history.step, steps, config)
        batch = task.train[history.step]
        update(training, batch, lr, config.clip_norm, seed)
        training.tokens_per_second = batch.tokens / (time.perf_counter() - started)
        if history.step % config.eval_every == 0 or history.step == steps:
            evaluate_now(training, callbacks, lr)
        for callback in callbacks:
            callback.on_step(training)
    for callback in callbacks:
        callback.on_end(training)
    if config.keep == "best":
        load_trainable(history.best_weights, task.model)
    return history


def update(training: Training, batch: Batch, lr: float, clip_norm: float | None, seed: int | None) -> None:
    """Update the weights with the gradient of the mean loss of `batch`, accumulated over micro-batches.

    `seed` seeds dropout; if it is None, the global generator is not seeded. Raises UserError as `fit` does, before the
    update.
    """
    task, config, history, optimizer = training.task, training.config, training.history, training.optimizer
    task.model.train()
    count, loss = batch.count, 0.0
    for number, micro in enumerate(batch.split(config.micro_batch_size)):
        if seed is not None:
            torch.manual_seed(derive(seed, "dropout", history.step, number))
        loss += _add_gradients(task, micro, count, training.runtime)
    trainable = list(optimizer.weights.values())
    norm = _norm([p.grad for p in trainable if p.grad is not None], clips=clip_norm is not None)
    _check_finite({"loss": loss, "gradient norm": norm.item()}, training, lr)
    if clip_norm is not None and norm > clip_norm:
        torch.nn.utils.clip_grads_with_norm_(trainable, clip_norm, norm)
    optimizer.step(lr)
    optimizer.zero_grad()
    history.step, history.tokens_seen = history.step + 1, history.tokens_seen + batch.tokens
    training.batch_loss = loss


def evaluate_now(training: Training, callbacks: Sequence[Callback], lr: float) -> None:
    """Evaluate on all of `task.evaluations` and add a row to the history."""
    task, config = training.task, training.config
    model = packed_weights.packed_copy(task.model.eval(), training.runtime, packed_weights.EVALUATION_ROWS)
    means = {
        name: evaluate(model, task.loss, data, training.runtime, config.micro_batch_size, task.section)
        for name, data in task.evaluations.items()
    }
    add_row(training, callbacks, lr, means)


def add_row(
    training: Training, callbacks: Sequence[Callback], lr: float, means: Mapping[str, Mapping[str, float]]
) -> None:
    """Add the results of an evaluation to the history. Raises UserError if a loss is not finite."""
    history = training.history
    row: dict[str, Any] = {"step": training.step, "tokens_seen": history.tokens_seen, "lr": lr}
    for name, values in means.items():
        _check_finite({f"{name} loss": values["loss"]}, training, lr)
        row |= {f"{name}_{measure}": mean for measure, mean in values.items()}
    history.rows.append(row)
    if training.config.keep == "best" and history.best is history.last:
        weights = trainable_parameters(training.task.model)
        history.best_weights = {name: p.detach().to("cpu", copy=True) for name, p in weights.items()}
    for callback in callbacks:
        callback.on_evaluation(training)


@torch.no_grad()
def load_trainable(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Copy `weights` into the trainable parameters of the model, which may be on another device."""
    for name, parameter in trainable_parameters(model).items():
        parameter.copy_(weights[name])


def evaluation_batches(train: Dataset, val: Dataset, config: TrainConfig) -> dict[str, BatchSource]:
    """The evaluations of a Task: `eval_batches` batches of both splits, the same every time."""
    splits = {"train": train, "val": val}
    return {name: SequentialBatches(data, config.batch_size, config.eval_batches) for name, data in splits.items()}


def evaluate(
    model: nn.Module,
    loss: Loss,
    data: BatchSource,
    runtime: RuntimeConfig,
    micro_batch_size: int | None = None,
    section: str = "train",
) -> dict[str, float]:
    """The means over all targets of `data`. Leaves the model in evaluation mode."""
    parts = evaluate_batches(model, loss, data, runtime, micro_batch_size, section)
    count = sum(count for _, count in parts)
    return {measure: sum(sums[measure] for sums, _ in parts) / count for measure in parts[0][0]}


@torch.no_grad()
def evaluate_batches(
    model: nn.Module,
    loss: Loss,
    data: BatchSource,
    runtime: RuntimeConfig,
    micro_batch_size: int | None,
    section: str,
) -> list[Part]:
    """The sums of `loss` for each batch of `data`, with its number of targets."""
    device = next(model.parameters()).device
    model.eval()
    parts: list[Part] = []
    with autocast(runtime):  # enter once: autocast caches the cast weights
        for index in range(len(data)):
            batch = data[index]
            totals: dict[str, float] = defaultdict(float)
            for micro in batch.split(micro_batch_size):
                with _memory_of(micro, section):
                    for measure, total in loss(model, micro.to(device)).items():
                        totals[measure] += total.item()
            parts.append((totals, batch.count))
    return parts


def _add_gradients(task: Task, micro: Batch, count: int, runtime: RuntimeConfig) -> float:
    """Add the gradients of a micro-batch and return its part of the mean loss over the `count` targets of the batch."""
    device = next(task.model.parameters()).device
    with _memory_of(micro, task.section):
        with autocast(runtime):
            mean = task.loss(task.model, micro.to(device))["loss"] / count
        mean.backward()  # type: ignore[no-untyped-call]
    return mean.item()


def _norm(gradients: list[Tensor], clips: bool) -> Tensor:
    """The total norm of all gradients.

    Without clipping, only whether it is finite matters; dot products are faster for that.
    """
    if clips:
        return torch.nn.utils.get_total_norm(gradients)
    return torch.stack([torch.dot(g.flatten(), g.flatten()) for g in gradients]).sum().sqrt()


@contextmanager
def _memory_of(batch: Batch, section: str) -> Iterator[None]:
    """Turn an out-of-memory error, of the host or the device, into a UserError that names the parameter to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        rows, length = batch.inputs.shape[:2]
        what = f"out of memory with {rows} rows of {length} tokens at once"
        fix = "set it to a smaller divisor of batch_size, or shorten the rows"
        raise UserError(f"params.yaml: {section}.micro_batch_size", what, fix, RESOURCES) from None


def _check_finite(values: Mapping[str, float], training: Training, lr: float) -> None:
    """Raise UserError if a value is infinite or NaN."""
    if all(map(math.isfinite, values.values())):
        return
    history = training.history
    seen = ", ".join(f"{name} {value}" for name, value in values.items())
    last = f"{history.last['train_loss']:.4g}" if history.rows else "none"
    what = f"training diverged after {history.step} steps: {seen} at lr {lr:.3g} (last finite training loss {last})"
    fix = "lower it, or clip_norm; with the previous values, `dvc repro` restores the previous outputs"
    raise UserError(f"params.yaml: {training.task.section}.lr", what, fix, DIVERGED)
