"""Batches. The batch of a step is a pure function of the dataset, the batch size, the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from llm.common.errors import USAGE, UserError
from llm.common.seeds import derive

IGNORED = -100  # targets with this value are left out of the loss


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of one step.

    `inputs` are token ids (B, T), or hidden states (B, T, C) if the lower blocks are already computed. `targets` are
    the next tokens (B, T), or classes (B,). `lengths` (B,) are the numbers of tokens before the padding on the right,
    if rows are padded. With `trim`, the inputs of a micro-batch are cut to its longest row.

    A subclass may add fields and define `count` in another way. `split` cuts all its tensors by their first dimension,
    so what belongs together must be one row; other fields stay as they are.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    trim: bool = False

    @property
    def count(self) -> int:
        return int((self.targets != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Number of input tokens, with padding."""
        return self.inputs.shape[0] * self.inputs.shape[1]

    def split(self, size: int | None) -> Iterator[Self]:
        """Yield micro-batches of at most `size` rows (None: the whole batch)."""
        size = size or len(self.inputs)
        for start in range(0, len(self.inputs), size):
            micro = self.rows(slice(start, start + size))
            if self.trim and micro.lengths is not None:
                micro = replace(micro, inputs=micro.inputs[:, : int(micro.lengths.max())])
            yield micro

    def rows(self, chosen: slice | Tensor) -> Self:
        """Some rows; `chosen` is a slice, or a mask or indices as a tensor."""
        return self._with_tensors(lambda tensor: tensor[chosen])

    @cached_property
    def counted(self) -> Tensor | None:
        """The positions (N,) of the targets that are not IGNORED, among all targets in a row; None if all count."""
        counts = self.targets.flatten() != IGNORED
        return None if bool(counts.all()) else counts.nonzero()[:, 0]

    def to(self, device: torch.device) -> Self:
        """Copy to a device, with `counted`: to find it there, the host would wait for the device."""
        apart = device.type == "cuda"  # the host goes on; from pinned memory the GPU copies by itself
        return self._moved(lambda tensor: tensor.to(device, non_blocking=apart))

    def pinned(self) -> Self:
        """A copy in pinned memory."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> Self:
        moved = self._with_tensors(move)
        vars(moved)["counted"] = None if self.counted is None else move(self.counted)
        return moved

    def _with_tensors(self, change: Callable[[Tensor], Tensor]) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {key: change(value) for key, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)


class Dataset(Protocol):
    """Examples that can be collated into batches."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch: ...


class BatchSource(Protocol):
    """The batches of a training run or an evaluation, by step."""

    def __len__(self) -> int: ...

    def __getitem__(self, step: int) -> Batch: ...


@dataclass(frozen=True)
class Buckets:
    """Settings that group examples of similar length into batches."""

    lengths: Sequence[int]  # of each example, in tokens
    batches: int  # number of batches whose examples are sorted together


class ShuffledBatches:
    """`steps` batches, shuffled in each epoch. Examples that do not fill the last batch of an epoch are dropped.

    With `buckets`, an epoch has the same examples, grouped by length. Raises UserError at the key `where` of
    params.yaml if there are fewer examples than `batch_size`.
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
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            used = order(len(self.dataset), self.seed, epoch)[: self.steps_per_epoch * self.batch_size]
            self._order = bucketed(used, self.batch_size, self.buckets, self.seed, epoch) if self.buckets else used
            self._epoch = epoch
        start = position * self.batch_size
        return self.dataset.batch(self._order[start : start + self.batch_size].tolist())


class SequentialBatches:
    """Every example once, in order, for evaluation. `limit` is a number of evenly spaced batches to keep."""

    def __init__(self, dataset: Dataset, batch_size: int, limit: int | None = None) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        starts = range(0, len(dataset), batch_size)
        count = min(limit or len(starts), len(starts))
        self.starts = [starts[i * len(starts) // count] for i in range(count)]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Batch:
        start = self.starts[index]
        return self.dataset.batch(range(start, min(start + self.batch_size, len(self.dataset))))


class ConcatBatches:
    """Batch sources, one after another."""

    def __init__(self, *sources: BatchSource) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def __getitem__(self, step: int) -> Batch:
        for source in self.sources:
            if step < len(source):
                return source[step]
            step -= len(source)
        raise IndexError(step)


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Return the number of full batches in one epoch."""
    return examples // batch_size


def some_steps_per_epoch(examples: int, batch_size: int, where: str) -> int:
    """Return `steps_per_epoch`. Raises UserError at the key `where` of params.yaml if it is 0."""
    if examples < batch_size:
        what = f"{batch_size}, but there are only {examples} examples"
        raise UserError(f"params.yaml: {where}", what, f"set it to {examples} or less", USAGE)
    return steps_per_epoch(examples, batch_size)


def order(n: int, seed: int, epoch: int) -> Tensor:
    """Return the order of `n` examples in one epoch, a permutation (n,)."""
    generator = torch.Generator().manual_seed(derive(seed, "order", epoch))
    return torch.randperm(n, generator=generator)


def bucketed(order: Tensor, batch_size: int, buckets: Buckets, seed: int, epoch: int) -> Tensor:
    """Return the examples of `order`, which fill whole batches, grouped by length.

    Each run of `buckets.batches` batches is sorted by length (a stable sort) and cut into batches again, which are then
    shuffled.
    """
    generator = torch.Generator().manual_seed(derive(seed, "buckets", epoch))
    lengths, runs = torch.tensor(buckets.lengths), []
    size = min(buckets.batches * batch_size, len(order))  # examples in a run
    for start in range(0, len(order), size):
        run = order[start : start + size]
        batches = run[lengths[run].argsort(stable=True)].view(-1, batch_size)
        runs.append(batches[torch.randperm(len(batches), generator=generator)].flatten())
    return torch.cat(runs)
