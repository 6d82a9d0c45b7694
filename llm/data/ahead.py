"""Batches that are prepared while a GPU computes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from llm.data.batches import Batch, BatchSource


class Ahead:
    """The batches of `source`; a thread prepares that of the next step, in memory that a GPU can copy from by itself.

    Not for a source whose batches depend on the current weights.
    """

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._thread = ThreadPoolExecutor(1, "batches")  # one: a source need not be safe for several threads
        self._step, self._next = -1, Future[Batch]()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, step: int) -> Batch:
        if step != self._step:
            self._start(step)
        batch = self._next.result()
        if step + 1 < len(self):
            self._start(step + 1)
        return batch

    def _start(self, step: int) -> None:
        self._step, self._next = step, self._thread.submit(self._prepare, step)

    def _prepare(self, step: int) -> Batch:
        return self._source[step].pinned()


def prepared(source: BatchSource, device: str) -> BatchSource:
    """`source`, prepared ahead if the device is a GPU that copies from pinned memory."""
    return Ahead(source) if device == "cuda" else source
