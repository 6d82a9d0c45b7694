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
from llm.model.gpt import Transformer
from llm.runtime.device import RuntimeConfig, autocast, without_autocast
from llm.train.config import TrainConfig
from llm.train.divided import is_divided, whole
from llm.train.history import History
from llm.train.optim import AdamW, lr_at, trainable_parameters
from llm.train.ranks import ALONE, Alone, ranks_of
from llm.train.task import Callback, Loss, Task, Training

Part = tuple[dict[str, float], int]  # the sums over one batch of an evaluation, and its number of targets


def fit(
    task: Task,
    config: TrainConfig,
    runtime: RuntimeConfig,
    seed: int,
    callbacks: Sequence[Callback] = (),
    ranks: Alone | None = None,
) -> History:
    """Train the model of `task`, and evaluate it before the first update and every `config.eval_every` updates.

    `config.patience` may end the run early; the learning rate still follows the schedule for all batches. If
    `config.keep` is "best", the model ends with the weights of the row `history.best`; the history has all rows.

    Dropout is seeded from (seed, step, micro-batch) before each forward pass, so evaluations, samples and logging
    never change the weights. Callbacks run in the order given. `ranks` are given where the task uses them too. Raises
    UserError if a loss or gradient is not finite; the weights are then those before that update.
    """
    steps = len(task.train)
    ranks = ranks or ranks_of(runtime)
    model, loss = ranks.prepare(task.model, task.loss)
    training = Training(task, config, runtime, AdamW(model, config), History(), steps, model, loss, ranks)
    for callback in callbacks:
        callback.on_start(training)
    history = training.history
    history.planned = steps
    checkpoint_activations(model, runtime)
    if not history.rows:
        evaluate_now(training, callbacks, lr_at(0, steps, config))
    started, tokens = 0.0, 0
    while not training.over:
        if not training.readings:
            started, tokens = time.perf_counter(), 0
        lr = lr_at(history.step, steps, config)
        batch = task.train[history.step]
        update(training, batch, lr, config.clip_norm, seed)
        tokens += batch.tokens
        evaluates = history.step % config.eval_every == 0 or history.step == steps
        if evaluates:
            read_updates(training)
        if not training.readings:
            training.tokens_per_second = tokens / (time.perf_counter() - started)
        for callback in callbacks:
            callback.on_update(training)
        if evaluates:
            evaluate_now(training, callbacks, lr)
        for callback in callbacks:
            callback.on_step(training)
    for callback in callbacks:
        callback.on_end(training)
    ranks.gather(task.model)
    if config.keep == "best":
        load_trainable(history.best_weights, task.model)
    ranks.end(task.model)
    return history


def checkpoint_activations(model: nn.Module, runtime: RuntimeConfig) -> None:
    """Have the blocks of the model compute twice instead of keeping activations, or not, as `runtime` says."""
    for module in model.modules():
        if isinstance(module, Transformer):
            module.checkpoint = runtime.checkpoint_activations


def update(training: Training, batch: Batch, lr: float, clip_norm: float | None, seed: int | None) -> None:
    """Update the weights with the gradient of the mean loss of `batch`, accumulated over micro-batches.

    `seed` seeds dropout; if it is None, the global generator is not seeded. Raises UserError as `fit` does, before the
    update. On `cuda`, loss and norm are read every `runtime.log_every` updates. If they are not finite, the GPU skips
    this update and all later ones, and the error comes with the next reading.
    """
    config, history, optimizer, ranks = training.config, training.history, training.optimizer, training.ranks
    training.model.train()
    count = batch.count
    losses: list[Tensor] = []
    micro_batches = ranks.micro_batches(batch, config.micro_batch_size)
    with autocast(training.runtime):  # enter once: autocast caches the cast weights
        for number, micro in micro_batches:
            if seed is not None:
                torch.manual_seed(derive(seed, "dropout", history.step, number))
            ranks.last(len(losses) == len(micro_batches) - 1)
            losses.append(_add_gradients(training, micro, count))
    losses = list(ranks.total(torch.stack(losses)))
    trainable = list(optimizer.weights.values())
    norm = _norm([p.grad for p in trainable if p.grad is not None], clips=clip_norm is not None)
    training.readings.add(history.step, lr, losses, norm)
    reads = norm.device.type != "cuda"  # PyTorch's AdamW on mps does not skip updates
    if reads or (history.step + 1) % training.runtime.log_every == 0:
        read_updates(training)
    if clip_norm is not None and (not reads or norm > clip_norm):  # the GPU would have to wait for the comparison
        torch.nn.utils.clip_grads_with_norm_(trainable, clip_norm, norm)
    optimizer.step(lr, training.readings.stop)
    optimizer.zero_grad()
    history.step, history.tokens_seen = history.step + 1, history.tokens_seen + batch.tokens


def read_updates(training: Training) -> None:
    """Read loss and gradient norm of the updates so far. Raises UserError if they are not finite.

    Call it before weights are evaluated or saved.
    """
    for read in training.readings.read():
        values = {"loss": read.loss, "gradient norm": read.norm}
        _check_finite(values, training, read.lr, read.step)
        training.batch_loss, training.gradient_norm = read.loss, read.norm


def evaluate_now(training: Training, callbacks: Sequence[Callback], lr: float) -> None:
    """Evaluate on all of `task.evaluations` and add a row to the history."""
    task, config = training.task, training.config
    read_updates(training)
    model = training.model.eval()
    if training.ranks.size == 1:
        model = packed_weights.packed_copy(model, training.runtime, packed_weights.EVALUATION_ROWS)
    means: dict[str, Mapping[str, float]] = {}
    for name, data in task.evaluations.items():
        if callable(data):
            with training.ranks.whole(task.model):
                means[name] = data(model if training.ranks.size == 1 else task.model)
        else:
            means[name] = evaluate(
                model, training.loss, data, training.runtime, config.micro_batch_size, task.section, training.ranks
            )
    add_row(training, callbacks, lr, means)


def add_row(
    training: Training, callbacks: Sequence[Callback], lr: float, means: Mapping[str, Mapping[str, float]]
) -> None:
    """Add the results of an evaluation to the history. Raises UserError if a loss is not finite."""
    history = training.history
    row: dict[str, Any] = {"step": training.step, "tokens_seen": history.tokens_seen, "lr": lr}
    for name, values in means.items():
        _check_finite({f"{name} loss": values["loss"]}, training, lr, history.step)
        row |= {f"{name}_{measure}": mean for measure, mean in values.items()}
    history.rows.append(row)
    if training.config.keep == "best" and history.best is history.last:
        weights = trainable_parameters(training.model)
        history.best_weights = {name: whole(p.detach()).to("cpu", copy=True) for name, p in weights.items()}
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
    ranks: Alone = ALONE,
) -> dict[str, float]:
    """The means over all targets of `data`. Leaves the model in evaluation mode."""
    parts = evaluate_batches(model, loss, data, runtime, micro_batch_size, section, ranks)
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
    ranks: Alone = ALONE,
) -> list[Part]:
    """The sums of `loss` for each batch of `data`, with its number of targets."""
    device = next(model.parameters()).device
    model.eval()
    parts: list[Part] = []
    sums: dict[str, list[Tensor]] = defaultdict(list)  # of all micro-batches, read together at the end
    owners: list[dict[str, float]] = []  # the batch of each micro-batch
    with autocast(runtime):  # enter once: autocast caches the cast weights
        for index in range(len(data)):
            batch = data[index]
            parts.append((defaultdict(float), batch.count))
            for _number, micro in ranks.micro_batches(batch, micro_batch_size):
                with _memory_of(micro, section):
                    for measure, total in loss(model, micro.to(device)).items():
                        sums[measure].append(total)
                owners.append(parts[-1][0])
    for measure, totals in sums.items():
        for owner, total in zip(owners, ranks.total(torch.stack(totals)).tolist(), strict=True):
            owner[measure] += total
    return parts


def _add_gradients(training: Training, micro: Batch, count: int) -> Tensor:
    """Add the gradients of a micro-batch and return its part of the mean loss over the `count` targets of the batch."""
    device = next(training.model.parameters()).device
    with _memory_of(micro, training.task.section):
        mean = training.loss(training.model, micro.to(device))["loss"] / count
        with without_autocast(training.runtime):
            mean.backward()  # type: ignore[no-untyped-call]
    return mean.detach()


def _norm(gradients: list[Tensor], clips: bool) -> Tensor:
    """The total norm of all gradients.

    Without clipping, only whether it is finite matters; dot products are faster for that.
    """
    if clips:
        return whole(torch.nn.utils.get_total_norm(gradients))
    return torch.stack([_square(g) for g in gradients]).sum().sqrt()


def _square(gradient: Tensor) -> Tensor:
    if is_divided(gradient):
        return whole(gradient.square().sum())
    return torch.dot(gradient.flatten(), gradient.flatten())


@contextmanager
def _memory_of(batch: Batch, section: str) -> Iterator[None]:
    """Turn an out-of-memory error, of the host or the device, into a UserError that names the parameter to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        rows = len(batch.inputs)
        length = batch.tokens // rows
        what = f"out of memory with {rows} rows of {length} tokens at once"
        fix = "set it to a smaller divisor of batch_size, or shorten the rows"
        raise UserError(f"params.yaml: {section}.micro_batch_size", what, fix, RESOURCES) from None


def _check_finite(values: Mapping[str, float], training: Training, lr: float, step: int) -> None:
    """Raise UserError if a value after `step` updates is infinite or NaN."""
    if all(map(math.isfinite, values.values())):
        return
    history = training.history
    seen = ", ".join(f"{name} {value}" for name, value in values.items())
    last = f"{history.last.get('train_loss', math.nan):.4g}" if history.rows else "none"
    what = f"training diverged after {step} steps: {seen} at lr {lr:.3g} (last finite training loss {last})"
    fix = "lower it, or clip_norm; with the previous values, `dvc repro` restores the previous outputs"
    raise UserError(f"params.yaml: {training.task.section}.lr", what, fix, DIVERGED)
