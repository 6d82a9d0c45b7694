"""`fit` and `evaluate`: the only training loop, for pretraining, classification and instructions alike."""

from __future__ import annotations

import math
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llm.common.errors import DIVERGED, RESOURCES, UserError, is_out_of_memory
from llm.common.seeds import derive
from llm.data.batches import Batch, BatchSource, Dataset, InOrder
from llm.model import packed_weights
from llm.runtime.device import RuntimeConfig, autocast
from llm.train.history import NO_SAMPLES, History, Sampling
from llm.train.losses import Sums
from llm.train.optim import AdamW, TrainConfig, lr_at, trained

Loss = Callable[[nn.Module, Batch], Sums]  # sums over what counts; the count comes from the targets


class Watcher(Protocol):
    """What `fit` tells about its progress."""

    def progress(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        """One update is done."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """A point of every curve in `values`."""


class Silent:
    """A Watcher that lets it go by."""

    def progress(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        """One update is done."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """A point of every curve in `values`."""


class States(Protocol):
    """What lets a run go on where an earlier one was stopped."""

    def load(self, model: nn.Module, optimizer: AdamW) -> History:
        """Put the newest state into model and optimizer, if there is one; return its history."""

    def save(self, history: History, over: bool, model: nn.Module, optimizer: AdamW | None) -> None:
        """A step is done, and its evaluation: save that if it is due, as it is where the run is `over`.

        No optimizer: what it knows is of no more use.
        """


class NoStates:
    """Nothing is saved; a run begins at its beginning."""

    def load(self, model: nn.Module, optimizer: AdamW) -> History:
        """An empty history."""
        return History()

    def save(self, history: History, over: bool, model: nn.Module, optimizer: AdamW | None) -> None:
        """Nothing."""


Part = tuple[dict[str, float], int]  # what the loss sums over one batch, and over how many targets


class Coupling(Protocol):
    """How dropout, clipping and evaluations hang on the updates of a run."""

    def step_after(self, updates: int) -> int:
        """The step of the curve that so many updates have led to; multiples of `eval_every` are evaluated."""

    def seed_dropout(self, seed: int, update: int, micro_batch: int) -> None:
        """Set the global generator, from which dropout draws, before this forward pass; or leave it."""

    def clip_norm(self, update: int, config: TrainConfig) -> float | None:
        """What longer gradients are scaled down to in this update."""

    def mean(self, parts: Sequence[Part]) -> dict[str, float]:
        """The result of an evaluation on these batches."""


class Exact:
    """Each a function of the update alone, and a mean over all targets: no part of a run moves another."""

    def step_after(self, updates: int) -> int:
        """A step is an update."""
        return updates

    def seed_dropout(self, seed: int, update: int, micro_batch: int) -> None:
        """Anew for every forward pass."""
        torch.manual_seed(derive(seed, "dropout", update, micro_batch))

    def clip_norm(self, update: int, config: TrainConfig) -> float | None:
        """The same in all."""
        return config.clip_norm

    def mean(self, parts: Sequence[Part]) -> dict[str, float]:
        """Every target counts alike, in whatever batch it stands."""
        count = sum(count for _, count in parts)
        return {measure: sum(sums[measure] for sums, _ in parts) / count for measure in parts[0][0]}


EXACT = Exact()


def fit(
    model: nn.Module,
    loss: Loss,
    train: BatchSource,
    evaluations: Mapping[str, BatchSource],
    config: TrainConfig,
    runtime: RuntimeConfig,
    seed: int,
    watcher: Watcher,
    sampling: Sampling = NO_SAMPLES,
    section: str = "train",
    states: States | None = None,
    coupling: Coupling = EXACT,
    untrained: Mapping[str, BatchSource] | None = None,
    on_end: Callable[[AdamW], None] | None = None,
) -> History:
    """Train `model` on every batch of `train`; evaluate on `evaluations` (keys "train" and "val") along the way.

    With `config.patience` the run ends after so many evaluations in a row without a lower validation loss; the
    learning rate goes as planned for all of `train` until then. With `config.keep` "best" the model ends with the
    weights of the row `history.best`; the history goes on to the last update all the same.

    What `sampling` writes goes into `history.samples`. `section` is the one of params.yaml that errors point to. A run
    that goes on from one of `states` ends with the bits of one that was never stopped. `untrained` takes the place of
    `evaluations` before the first update; `on_end` is given the optimizer after the last.

    Unless `coupling` says otherwise, dropout is seeded from (seed, step, micro-batch) before each forward pass, so
    evaluating, sampling and logging never change the weights. Raises UserError where the loss or a gradient is not
    finite; the weights are those before that update then.
    """
    device = next(model.parameters()).device
    optimizer = AdamW(model, config)
    trainable = list(optimizer.weights.values())
    states = states or NoStates()
    history = states.load(model, optimizer)
    history.planned = steps = len(train)

    def over() -> bool:
        return history.step == steps or history.ran_out(config)

    def look(lr: float, sources: Mapping[str, BatchSource]) -> None:
        packed = packed_weights.beside(model.eval(), runtime, packed_weights.EVALUATION_ROWS)
        step = coupling.step_after(history.step)
        row: dict[str, Any] = {"step": step, "tokens_seen": history.tokens_seen, "lr": lr}
        for name, data in sources.items():
            means = evaluate(packed, loss, data, runtime, config.micro_batch_size, coupling, section)
            _check_finite({f"{name} loss": means["loss"]}, section, lr, history)
            row |= {f"{name}_{measure}": mean for measure, mean in means.items()}
        history.rows.append(row)
        if config.keep == "best" and history.best is history.last:
            history.best_weights = {name: p.detach().to("cpu", copy=True) for name, p in trained(model).items()}
        watcher.metrics(_curves(history.last), step)

    for row in history.rows:
        watcher.metrics(_curves(row), row["step"])
    if not history.rows:
        look(lr_at(0, steps, config), untrained or evaluations)
        sampling.write_if_due(history, coupling.step_after(0), evaluated=True, over=over())
    clock = time.perf_counter()
    while not over():
        step = history.step
        model.train()
        lr = lr_at(step, steps, config)
        batch = train[step]
        batch_loss = _accumulate(
            model, loss, batch, config, runtime, partial(coupling.seed_dropout, seed, step), device, section
        )
        longest = coupling.clip_norm(step, config)
        norm = _norm([p.grad for p in trainable if p.grad is not None], clips=longest is not None)
        _check_finite({"loss": batch_loss, "gradient norm": norm.item()}, section, lr, history)
        if longest is not None and norm > longest:
            torch.nn.utils.clip_grads_with_norm_(trainable, longest, norm)
        optimizer.step(lr)
        optimizer.zero_grad()
        history.step, history.tokens_seen = step + 1, history.tokens_seen + batch.tokens
        now = time.perf_counter()
        watcher.progress(step + 1, steps, batch_loss, batch.tokens / (now - clock))
        evaluated = coupling.step_after(step + 1) % config.eval_every == 0 or step + 1 == steps
        if evaluated:
            look(lr, evaluations)
        sampling.write_if_due(history, coupling.step_after(step + 1), evaluated, over())
        states.save(history, over(), model, None if over() and on_end is None else optimizer)
        clock = time.perf_counter()
    if on_end is not None:
        on_end(optimizer)
    if config.keep == "best":
        put(history.best_weights, model)
    return history


@torch.no_grad()
def put(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Copy weights into what trains of the model, wherever that lies."""
    for name, parameter in trained(model).items():
        parameter.copy_(weights[name])


def looks(train: Dataset, val: Dataset, config: TrainConfig) -> dict[str, InOrder]:
    """What `fit` evaluates on: the same `eval_batches` batches of both splits every time."""
    return {
        name: InOrder(data, config.batch_size, config.eval_batches) for name, data in [("train", train), ("val", val)]
    }


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loss: Loss,
    data: BatchSource,
    runtime: RuntimeConfig,
    micro_batch_size: int | None = None,
    coupling: Coupling = EXACT,
    section: str = "train",
) -> dict[str, float]:
    """Means of what `loss` sums, over all targets of `data` that count; leaves the model in evaluation mode.

    `coupling` may mean otherwise; `section` is the one of params.yaml that errors point to.
    """
    device = next(model.parameters()).device
    model.eval()
    parts: list[Part] = []
    with autocast(runtime):  # once: it keeps what it makes of the weights
        for index in range(len(data)):
            batch = data[index]
            totals: dict[str, float] = defaultdict(float)
            for micro in batch.split(micro_batch_size):
                with _memory_of(micro, section):
                    for measure, total in loss(model, micro.to(device)).items():
                        totals[measure] += total.item()
            parts.append((totals, batch.count))
    return coupling.mean(parts)


def _accumulate(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    config: TrainConfig,
    runtime: RuntimeConfig,
    seed_dropout: Callable[[int], None],
    device: torch.device,
    section: str,
) -> float:
    """Add the gradients of the batch's mean loss, one micro-batch after the other; return that loss."""
    count = batch.count
    total = 0.0
    for number, micro in enumerate(batch.split(config.micro_batch_size)):
        seed_dropout(number)
        with _memory_of(micro, section):
            with autocast(runtime):
                mean = loss(model, micro.to(device))["loss"] / count
            mean.backward()  # type: ignore[no-untyped-call]
        total += mean.item()
    return total


def _norm(gradients: list[Tensor], clips: bool) -> Tensor:
    """The norm of all gradients together: as PyTorch has it where it clips; else it need only be finite or not.

    Products of each gradient with itself are the faster way to that.
    """
    if clips:
        return torch.nn.utils.get_total_norm(gradients)
    return torch.stack([torch.dot(g.flatten(), g.flatten()) for g in gradients]).sum().sqrt()


@contextmanager
def _memory_of(batch: Batch, section: str) -> Iterator[None]:
    """Turn running out of memory, of the host or the device, into a UserError that names the knob."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        rows, length = batch.inputs.shape[:2]
        what = f"out of memory with {rows} rows of {length} tokens at once"
        fix = "set it to a smaller part of batch_size, or shorten the rows"
        raise UserError(f"params.yaml: {section}.micro_batch_size", what, fix, RESOURCES) from None


def _curves(row: Mapping[str, Any]) -> dict[str, float]:
    """A row as the points of curves: `train_loss` belongs to the curve `train` of the figure `loss`."""
    return {re.sub(r"^(train|val)_(.+)", r"\2/\1", name): value for name, value in row.items() if name != "step"}


def _check_finite(values: Mapping[str, float], section: str, lr: float, history: History) -> None:
    """Raise UserError where a value is infinite or not a number."""
    if all(map(math.isfinite, values.values())):
        return
    seen = ", ".join(f"{name} {value}" for name, value in values.items())
    last = f"{history.last['train_loss']:.4g}" if history.rows else "none"
    what = f"training diverged after {history.step} steps: {seen} at lr {lr:.3g} (last finite training loss {last})"
    fix = "lower it, or clip_norm; with the values from before, `dvc repro` brings the previous outputs back"
    raise UserError(f"params.yaml: {section}.lr", what, fix, DIVERGED)
