"""Chapter 5's training, coupled as the book couples it: `fit` with other batches, another coupling, and its own start.

There all that is random draws from one stream, torch's global generator: initialisation, then shuffling and dropout,
and each evaluation too, which iterates the shuffled loader. So the losses depend on when a run looks at itself, and a
run cannot go on from a state; in return they are the published ones, to every printed digit, on x86 Linux in fp32 with
attention written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from llm.data.batches import Batch, Dataset, some_steps_per_epoch
from llm.runtime.device import RuntimeConfig
from llm.train.history import NO_SAMPLES, History, Sampling
from llm.train.loop import Loss, Part, States, Watcher, fit
from llm.train.optim import AdamW, TrainConfig


def fit_as_the_book(
    model: nn.Module,
    loss: Loss,
    train: Dataset,
    val: Dataset,
    config: TrainConfig,
    runtime: RuntimeConfig,
    seed: int,
    watcher: Watcher,
    sampling: Sampling = NO_SAMPLES,
    section: str = "train",
    states: States | None = None,
    on_end: Callable[[AdamW], None] | None = None,
) -> History:
    """Train a model just initialised, or loaded, after `torch.manual_seed(seed)`; sections 5.1.3 and 5.2, appendix D.

    Steps count as in the book, from 0 for the first update; the row of step -1 is the untrained model on all batches.
    Raises UserError as `fit` does.
    """
    now, seeded = torch.get_rng_state(), torch.Generator().manual_seed(seed).get_state()
    steps_per_epoch = some_steps_per_epoch(len(train), config.batch_size, f"{section}.batch_size")
    shuffled = loader(train, config.batch_size, training=True)
    in_order = loader(val, config.batch_size, training=False)
    loaders = {"train": shuffled, "val": in_order}
    return fit(
        model,
        loss,
        Loaded(shuffled, config.epochs * steps_per_epoch, now),
        {name: Loaded(data, min(config.eval_batches or len(data), len(data))) for name, data in loaders.items()},
        config,
        runtime,
        seed,
        watcher,
        sampling,
        section=section,
        states=states,
        coupling=AsTheBook(),
        untrained={
            "train": Loaded(shuffled, len(shuffled), seeded),
            "val": Loaded(in_order, len(in_order)),
        },
        on_end=on_end,
    )


class AsTheBook:
    """The book's `Coupling`: one stream of random numbers, and means of the batches' means."""

    def step_after(self, updates: int) -> int:
        """The first update is step 0, and evaluated."""
        return updates - 1

    def seed_dropout(self, seed: int, update: int, micro_batch: int) -> None:
        """Never: dropout goes on where shuffling or evaluating left the generator."""

    def clip_norm(self, update: int, config: TrainConfig) -> float | None:
        """From the end of the warm-up on (appendix D.3)."""
        return config.clip_norm if update >= config.warmup_steps else None

    def mean(self, parts: Sequence[Part]) -> dict[str, float]:
        """Every batch counts alike; the targets of a smaller one count more."""
        return {measure: sum(sums[measure] / count for sums, count in parts) / len(parts) for measure in parts[0][0]}


class Loaded:
    """`steps` batches of a torch DataLoader, pass after pass; a BatchSource whose batches are asked for in turn.

    Each pass draws from the global generator when it begins, shuffled or not. Before the first batch the generator is
    put into the state `start`, if one is given.
    """

    def __init__(self, batches: DataLoader[int], steps: int, start: Tensor | None = None) -> None:
        self.batches, self.steps, self.start = batches, steps, start
        self._pass: Iterator[Any] = iter(())
        self._next = 0

    def __len__(self) -> int:
        """How many steps there are."""
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        """The next batch, or the first of another round."""
        assert step in (0, self._next), "the generator has moved on: its batches come in turn"
        if step == 0 and self.start is not None:
            torch.set_rng_state(self.start)
        if step % len(self.batches) == 0:
            self._pass = iter(self.batches)
        self._next = step + 1
        return cast(Batch, next(self._pass))


def loader(data: Dataset, batch_size: int, training: bool) -> DataLoader[int]:
    """The book's loader (section 2.6): shuffled and without the ragged rest for training, else all in order."""
    numbers = cast("torch.utils.data.Dataset[int]", range(len(data)))
    return DataLoader(numbers, batch_size, shuffle=training, drop_last=training, collate_fn=data.batch)
