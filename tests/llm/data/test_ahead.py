"""Batches that are prepared ahead are those of the source."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch

from llm.common.errors import UserError
from llm.data.ahead import Ahead, prepared
from llm.data.batches import IGNORED, Batch, ShuffledBatches


@pytest.fixture(autouse=True)
def unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave batches in ordinary memory: without a GPU there is no other."""
    monkeypatch.setattr(Batch, "pinned", lambda batch: batch)


class Rows:
    """Rows of numbers; records which thread asks for which batch."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.threads: list[int] = []
        self.fails_at = fails_at

    def __len__(self) -> int:
        return 12

    def batch(self, indices: Sequence[int]) -> Batch:
        self.threads.append(threading.get_ident())
        if len(self.threads) == self.fails_at:
            raise UserError("data", "is damaged", "download it again")
        ids = torch.tensor(indices)[:, None].repeat(1, 3)
        return Batch(ids, ids.masked_fill(ids % 5 == 0, IGNORED))


def source(rows: Rows) -> ShuffledBatches:
    return ShuffledBatches(rows, 4, 9, seed=1)


@pytest.mark.parametrize("steps", [range(9), range(5, 9), [0, 1, 2, 7, 8, 3, 3]])
def test_batches_are_those_of_the_source(steps: Sequence[int]) -> None:
    ahead, plain = Ahead(source(Rows())), source(Rows())
    assert len(ahead) == 9
    for step in steps:
        assert torch.equal(ahead[step].inputs, plain[step].inputs)
        assert torch.equal(ahead[step].targets, plain[step].targets)


def test_the_next_batch_is_made_by_another_thread_and_once() -> None:
    rows = Rows()
    ahead = Ahead(source(rows))
    for step in range(9):
        ahead[step]
    assert len(rows.threads) == 9
    assert set(rows.threads) == {rows.threads[0]}
    assert threading.get_ident() not in rows.threads


def test_an_error_comes_at_its_own_step() -> None:
    ahead = Ahead(source(Rows(fails_at=3)))
    ahead[0], ahead[1]
    with pytest.raises(UserError, match="is damaged"):
        ahead[2]


@pytest.mark.parametrize(("device", "ahead"), [("cuda", True), ("cpu", False), ("mps", False)])
def test_only_cuda_gets_batches_ahead(device: str, ahead: bool) -> None:
    plain = source(Rows())
    assert isinstance(prepared(plain, device), Ahead) == ahead
    assert ahead or prepared(plain, device) is plain
