"""The training loop of chapter 5 as printed, for the published losses (sections 5.1.3 and 5.2, appendix D).

Initialization, shuffling and dropout all draw from torch's global generator. An evaluation iterates the shuffled loader
and draws from it too, so the losses depend on when the model is evaluated, and a stopped run cannot resume. In return,
the losses equal the published ones in every printed digit, on x86 Linux in fp32 with `attention: eager`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import cast

import torch
from torch import nn
from torch.utils.data import DataLoader

from llm.data.batches import Batch, ConcatBatches, Dataset, some_steps_per_epoch
from llm.model import packed_weights
from llm.runtime.device import RuntimeConfig
from llm.train.config import TrainConfig
from llm.train.history import History
from llm.train.loop import add_row, checkpoint_activations, evaluate_batches, read_updates, update
from llm.train.optim import AdamW, lr_at
from llm.train.ranks import ALONE
from llm.train.task import Callback, Loss, Task, Training


def fit_as_the_book(
    model: nn.Module,
    loss: Loss,
    train: Dataset,
    val: Dataset,
    config: TrainConfig,
    runtime: RuntimeConfig,
    seed: int,
    callbacks: Sequence[Callback] = (),
    section: str = "train",
) -> History:
    """Train a model that was initialized or loaded right after `torch.manual_seed(seed)`.

    The first update is step 0, as in the book; the row of step -1 is the untrained model on all batches. Raises
    UserError as `fit` does.
    """
    updates = config.epochs * some_steps_per_epoch(len(train), config.batch_size, f"{section}.batch_size")
    loaders = {
        "train": data_loader(train, config.batch_size, training=True),
        "val": data_loader(val, config.batch_size, training=False),
    }
    task = Task(model, loss, ConcatBatches(), {}, section)  # batches come from the loaders
    history = History(planned=updates)
    training = Training(
        task, config, runtime, AdamW(model, config), history, updates, model, loss, ALONE, first_step=-1
    )

    def evaluate(lr: float, batches: int | None) -> None:
        read_updates(training)
        packed = packed_weights.packed_copy(model.eval(), runtime, packed_weights.EVALUATION_ROWS)
        means = {}
        for name, loader in loaders.items():
            seen = [cast(Batch, batch) for batch in islice(loader, batches)]
            parts = evaluate_batches(packed, loss, seen, runtime, config.micro_batch_size, section)
            # The book averages batch means, so targets in a smaller batch have more weight.
            means[name] = {key: sum(sums[key] / count for sums, count in parts) / len(parts) for key in parts[0][0]}
        add_row(training, callbacks, lr, means)

    for callback in callbacks:
        callback.on_start(training)
    checkpoint_activations(model, runtime)
    after_initialization = torch.get_rng_state()
    torch.manual_seed(seed)
    evaluate(lr_at(0, updates, config), batches=None)
    torch.set_rng_state(after_initialization)
    for _ in range(config.epochs):
        for batch in loaders["train"]:
            step = training.history.step
            lr = lr_at(step, updates, config)
            clip_norm = config.clip_norm if step >= config.warmup_steps else None  # appendix D.3
            update(training, cast(Batch, batch), lr, clip_norm, seed=None)
            if step % config.eval_every == 0 or step + 1 == updates:
                evaluate(lr, config.eval_batches)
            for callback in callbacks:
                callback.on_step(training)
    for callback in callbacks:
        callback.on_end(training)
    return training.history


def data_loader(data: Dataset, batch_size: int, training: bool) -> DataLoader[int]:
    """The loader of section 2.6; for training it shuffles and drops an incomplete last batch."""
    numbers = cast("torch.utils.data.Dataset[int]", range(len(data)))
    return DataLoader(numbers, batch_size, shuffle=training, drop_last=training, collate_fn=data.batch)
