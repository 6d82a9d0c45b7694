"""Which examples make step s: a pure function of (examples, batch size, seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from llm.common.errors import USAGE, UserError
from llm.common.seeds import derive

IGNORED = -100  # a target with this value does not count


@dataclass(frozen=True)
class Batch:
    """Token ids in, targets out: (B, T) ids each for next-token tasks, (B,) class numbers for classification.

    A classifier whose lower blocks have been computed takes their states (B, T, C) for ids.
    `lengths` (B,) counts the real tokens of each row where rows are padded on the right; `trim` says that a micro-batch
    needs no more padding than its own longest row.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    trim: bool = False

    @property
    def count(self) -> int:
        """How many targets count."""
        return int((self.targets != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """How many tokens go in, padding included."""
        return self.inputs.shape[0] * self.inputs.shape[1]

    def split(self, size: int | None) -> Iterator[Batch]:
        """Cut along the rows into micro-batches of at most `size` (None: the whole batch)."""
        for start in range(0, len(self.inputs), size or len(self.inputs)):
            rows = slice(start, start + (size or len(self.inputs)))
            lengths = None if self.lengths is None else self.lengths[rows]
            width = int(lengths.max()) if self.trim and lengths is not None else None
            yield Batch(self.inputs[rows, :width], self.targets[rows], lengths, self.trim)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        return Batch(self.inputs.to(device), self.targets.to(device), lengths, self.trim)


class Dataset(Protocol):
    """Examples that know how to become a batch."""

    def __len__(self) -> int:
        """How many examples there are."""

    def batch(self, indices: Sequence[int]) -> Batch:
        """The examples of `indices`, collated."""


class BatchSource(Protocol):
    """One batch for every step of a training run, or of an evaluation."""

    def __len__(self) -> int:
        """How many steps there are."""

    def __getitem__(self, step: int) -> Batch:
        """The batch of one step."""


@dataclass(frozen=True)
class Buckets:
    """What brings examples of like lengths into one batch."""

    lengths: Sequence[int]  # of every example
    batches: int  # so many batches' worth of examples at a time are sorted by length


class ShuffledBatches:
    """`steps` batches, every epoch in an order of its own; the ragged rest of an epoch is left out of it.

    With `buckets` it has the same examples, and those of a batch are about as long as each other. Raises UserError, at
    the key `where` of params.yaml, where the examples do not fill a batch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        steps: int,
        seed: int,
        where: str = "batch_size",
        buckets: Buckets | None = None,
    ) -> None:
        self.dataset, self.batch_size, self.steps, self.seed = dataset, batch_size, steps, seed
        self.buckets = buckets
        self.steps_per_epoch = some_steps_per_epoch(len(dataset), batch_size, where)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        """How many steps there are."""
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        """The batch of one step."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._order_of(epoch)
        start = position * self.batch_size
        return self.dataset.batch(self._order[start : start + self.batch_size].tolist())

    def _order_of(self, epoch: int) -> Tensor:
        used = order(len(self.dataset), self.seed, epoch)[: self.steps_per_epoch * self.batch_size]
        return bucketed(used, self.batch_size, self.buckets, self.seed, epoch) if self.buckets else used


class SequentialBatches:
    """Every example once, in its own order, for evaluation; `limit` takes that many batches, evenly spread."""

    def __init__(self, dataset: Dataset, batch_size: int, limit: int | None = None) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        starts = range(0, len(dataset), batch_size)
        count = min(limit or len(starts), len(starts))
        self.starts = [starts[i * len(starts) // count] for i in range(count)]

    def __len__(self) -> int:
        """How many batches there are."""
        return len(self.starts)

    def __getitem__(self, index: int) -> Batch:
        """One batch; the last may be smaller."""
        start = self.starts[index]
        return self.dataset.batch(range(start, min(start + self.batch_size, len(self.dataset))))


class ConcatBatches:
    """Sources one after the other."""

    def __init__(self, *sources: BatchSource) -> None:
        self.sources = sources

    def __len__(self) -> int:
        """How many steps there are."""
        return sum(len(source) for source in self.sources)

    def __getitem__(self, step: int) -> Batch:
        """The batch of one step."""
        for source in self.sources:
            if step < len(source):
                return source[step]
            step -= len(source)
        raise IndexError(step)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Full batches in one pass over the examples."""
    return examples // batch_size


def some_steps_per_epoch(examples: int, batch_size: int, where: str) -> int:
    """As `steps_per_epoch`; raises UserError, at the key `where` of params.yaml, where there is no full batch."""
    if examples < batch_size:
        what = f"{batch_size}, but there are only {examples} examples"
        raise UserError(f"params.yaml: {where}", what, f"set it to {examples} or less", USAGE)
    return steps_per_epoch(examples, batch_size)


def order(n: int, seed: int, epoch: int) -> Tensor:
    """The permutation of n examples in one epoch."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(n, generator=generator)


def bucketed(order: Tensor, batch_size: int, buckets: Buckets, seed: int, epoch: int) -> Tensor:
    """The examples of `order`, full batches of them, with like lengths together.

    Each run of `buckets.batches` batches is sorted by length, equal lengths as they came, cut into batches again, and
    these are put into an order drawn for this epoch.
    """
    generator = torch.Generator().manual_seed(derive(seed, "buckets", epoch))
    lengths, runs = torch.tensor(buckets.lengths), []
    size = min(buckets.batches * batch_size, len(order))  # of a run, in examples
    for start in range(0, len(order), size):
        run = order[start : start + size]
        batches = run[lengths[run].argsort(stable=True)].view(-1, batch_size)
        runs.append(batches[torch.randperm(len(batches), generator=generator)].flatten())
    return torch.cat(runs)
