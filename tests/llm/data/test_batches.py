"""Batches: a pure function of the step, with every example once in an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.common.errors import USAGE, UserError
from llm.common.seeds import derive
from llm.data.batches import (
    IGNORED,
    Batch,
    Buckets,
    ConcatBatches,
    SequentialBatches,
    ShuffledBatches,
    bucketed,
    order,
    steps_per_epoch,
)


class Numbers:
    """Examples that contain their own number."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: Sequence[int]) -> Batch:
        column = torch.tensor(list(indices))[:, None]
        return Batch(column, column + 1)


def rows(batch: Batch) -> list[int]:
    return batch.inputs.flatten().tolist()


# ShuffledBatches


def test_batches_do_not_depend_on_the_order_of_access() -> None:
    forwards = [rows(ShuffledBatches(Numbers(10), 3, 12, seed=1)[step]) for step in range(12)]
    source = ShuffledBatches(Numbers(10), 3, 12, seed=1)
    backwards = [rows(source[step]) for step in reversed(range(12))]
    assert forwards == backwards[::-1]


def test_batches_do_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(1)
    first = rows(ShuffledBatches(Numbers(10), 10, 1, seed=1)[0])
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert rows(ShuffledBatches(Numbers(10), 10, 1, seed=1)[0]) == first
    assert torch.equal(torch.get_rng_state(), state)


def test_epoch_covers_every_example_once() -> None:
    source = ShuffledBatches(Numbers(12), 3, 8, seed=1)
    for epoch in (0, 1):
        assert sorted(n for step in range(4) for n in rows(source[4 * epoch + step])) == list(range(12))


def test_examples_that_do_not_fill_a_batch_are_dropped() -> None:
    source = ShuffledBatches(Numbers(11), 3, 3, seed=1)
    seen = [n for step in range(3) for n in rows(source[step])]
    assert (len(seen), len(set(seen))) == (9, 9)


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = {tuple(order(20, seed, epoch).tolist()) for seed in (1, 2) for epoch in (0, 1, 2)}
    assert len(orders) == 6


def test_batch_larger_than_the_dataset_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"batch_size: 11, but there are only 10 examples \| fix: set it to 10"
    ) as caught:
        ShuffledBatches(Numbers(10), 11, 1, seed=1)
    assert caught.value.code == USAGE
    assert rows(ShuffledBatches(Numbers(10), 10, 1, seed=1)[0])


def test_length_is_the_number_of_steps() -> None:
    assert len(ShuffledBatches(Numbers(10), 3, 7, seed=1)) == 7
    assert steps_per_epoch(10, 3) == 3


# ShuffledBatches with buckets


MIXED = [1 + 7 * n % 13 for n in range(40)]


def bucketed_numbers(lengths: list[int], batch_size: int, batches: int, seed: int = 1) -> ShuffledBatches:
    steps = 3 * (len(lengths) // batch_size)
    return ShuffledBatches(Numbers(len(lengths)), batch_size, steps, seed, buckets=Buckets(lengths, batches))


def epoch_of(source: ShuffledBatches, epoch: int) -> list[list[int]]:
    per_epoch = source.steps_per_epoch
    return [rows(source[epoch * per_epoch + position]) for position in range(per_epoch)]


def tokens_in(batches: list[list[int]], lengths: list[int]) -> int:
    """Return the number of tokens with padding."""
    return sum(len(batch) * max(lengths[n] for n in batch) for batch in batches)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    batch_size=st.integers(1, 9),
    batches=st.integers(1, 12) | st.just(2**70),
    seed=st.integers(0, 99),
)
def test_buckets_keep_the_examples_of_each_run(lengths: list[int], batch_size: int, batches: int, seed: int) -> None:
    batch_size = min(batch_size, len(lengths))
    plain = ShuffledBatches(Numbers(len(lengths)), batch_size, 1, seed)
    for epoch in (0, 1):
        before, after = epoch_of(plain, epoch), epoch_of(bucketed_numbers(lengths, batch_size, batches, seed), epoch)
        assert {len(batch) for batch in after} == {batch_size}
        assert len(after) == len(before)
        for start in range(0, len(before), batches):
            run = [n for batch in before[start : start + batches] for n in batch]
            run.sort(key=lambda n: lengths[n])  # a stable sort
            cut = [run[i : i + batch_size] for i in range(0, len(run), batch_size)]
            assert sorted(after[start : start + batches]) == sorted(cut)


def test_without_buckets_the_random_order_is_cut_into_batches() -> None:
    cut = [order(11, 1, epoch).tolist()[start : start + 3] for epoch in (0, 1) for start in (0, 3, 6)]
    source = ShuffledBatches(Numbers(11), 3, 6, 1, buckets=None)
    assert [rows(source[step]) for step in range(6)] == cut


@pytest.mark.parametrize("batches", [2, 3, 10, 100])
@pytest.mark.parametrize(("lengths", "saves"), [(MIXED, True), ([5] * 40, False)], ids=["mixed", "equal"])
def test_buckets_save_padding_where_lengths_differ(lengths: list[int], saves: bool, batches: int) -> None:
    plain = ShuffledBatches(Numbers(40), 4, 30, seed=1)
    for epoch in (0, 1, 2):
        cut, sorted_ = epoch_of(plain, epoch), epoch_of(bucketed_numbers(lengths, 4, batches), epoch)
        assert (tokens_in(sorted_, lengths) < tokens_in(cut, lengths)) is saves
        assert tokens_in(sorted_, lengths) <= tokens_in(cut, lengths)


def test_a_larger_bucket_saves_more() -> None:
    tokens = [tokens_in(epoch_of(bucketed_numbers(MIXED, 4, batches), 0), MIXED) for batches in (1, 2, 5, 10)]
    assert tokens == sorted(set(tokens), reverse=True)


def test_batches_of_a_bucket_are_shuffled() -> None:
    """Otherwise every epoch would start with the short rows."""
    found = [[max(MIXED[n] for n in batch) for batch in epoch_of(bucketed_numbers(MIXED, 4, 10), e)] for e in (0, 1)]
    assert all(longest not in (sorted(longest), sorted(longest, reverse=True)) for longest in found)
    assert found[0] != found[1]


def test_buckets_differ_between_epochs_and_seeds() -> None:
    orders = [epoch_of(bucketed_numbers(MIXED, 4, 5, seed), epoch) for seed in (1, 2) for epoch in (0, 1, 2)]
    assert len({str(one) for one in orders}) == 6
    assert len({str(sorted(map(sorted, one))) for one in orders}) == 6  # the batches differ, not only their order


def test_the_order_of_batches_in_a_bucket_depends_on_seed_and_epoch() -> None:
    same, lengths = torch.arange(12), Buckets([1] * 12, 6)
    drawn = {tuple(bucketed(same, 2, lengths, seed, epoch).tolist()) for seed in (1, 2) for epoch in (0, 1, 2)}
    assert len(drawn) == 6


def test_bucketed_batches_depend_on_neither_the_order_of_access_nor_the_global_generator() -> None:
    torch.manual_seed(1)
    forwards = [rows(bucketed_numbers(MIXED, 4, 3)[step]) for step in range(30)]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    source = bucketed_numbers(MIXED, 4, 3)
    assert [rows(source[step]) for step in reversed(range(30))] == forwards[::-1]
    assert torch.equal(torch.get_rng_state(), state)


# SequentialBatches


def test_sequential_batches_have_every_example_once() -> None:
    source = SequentialBatches(Numbers(7), 3)
    assert [rows(source[i]) for i in range(len(source))] == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize(
    ("limit", "starts"), [(1, [0]), (2, [0, 4]), (3, [0, 2, 6]), (5, [0, 2, 4, 6, 8]), (9, [0, 2, 4, 6, 8])]
)
def test_limit_spreads_batches_evenly(limit: int, starts: list[int]) -> None:
    source = SequentialBatches(Numbers(10), 2, limit)
    assert [rows(source[i])[0] for i in range(len(source))] == starts


# ConcatBatches


def test_concat_gives_its_sources_one_after_another() -> None:
    first, second = ShuffledBatches(Numbers(10), 2, 3, seed=1), SequentialBatches(Numbers(7), 3)
    chain = ConcatBatches(first, second)
    assert [rows(chain[step]) for step in range(len(chain))] == [
        *(rows(first[step]) for step in range(3)),
        *(rows(second[step]) for step in range(3)),
    ]


def test_a_step_past_the_end_is_an_error() -> None:
    with pytest.raises(IndexError):
        ConcatBatches(SequentialBatches(Numbers(2), 2))[1]


# Batch


@pytest.mark.parametrize(("size", "lengths"), [(None, [5]), (5, [5]), (2, [2, 2, 1]), (9, [5])])
def test_split_keeps_every_row_once_and_in_order(size: int | None, lengths: list[int]) -> None:
    batch = Batch(torch.arange(10).view(5, 2), torch.arange(5), lengths=torch.arange(5) + 1)
    parts = list(batch.split(size))
    assert [len(part.inputs) for part in parts] == lengths
    for name in ("inputs", "targets", "lengths"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_a_trimmed_micro_batch_is_as_wide_as_its_longest_row() -> None:
    rows = torch.arange(20).view(4, 5)
    lengths = torch.tensor([2, 1, 5, 3])
    trimmed = list(Batch(rows, torch.zeros(4), lengths, trim=True).split(1))
    assert [micro.inputs.tolist() for micro in trimmed] == [[[0, 1]], [[5]], [[10, 11, 12, 13, 14]], [[15, 16, 17]]]
    assert [micro.inputs.shape[1] for micro in Batch(rows, torch.zeros(4), lengths, trim=True).split(2)] == [2, 5]
    assert [micro.inputs.shape[1] for micro in Batch(rows, torch.zeros(4), lengths).split(1)] == [5] * 4


def test_count_excludes_ignored_targets() -> None:
    targets = torch.tensor([[1, IGNORED, 0], [IGNORED, IGNORED, 2]])
    assert Batch(targets, targets).count == 3


def test_counts_of_micro_batches_add_up() -> None:
    targets = torch.tensor([[1, IGNORED], [IGNORED, IGNORED], [4, 5]])
    batch = Batch(targets, targets)
    assert sum(part.count for part in batch.split(1)) == batch.count


def test_to_moves_lengths_too() -> None:
    batch = Batch(torch.zeros(1, 1), torch.zeros(1), torch.ones(1)).to(torch.device("meta"))
    assert batch.lengths is not None
    assert {batch.inputs.device.type, batch.targets.device.type, batch.lengths.device.type} == {"meta"}


# Seeds


def test_derived_seeds_are_pinned() -> None:
    assert derive(123, "init") == 7715918688689151937


def test_derived_seeds_differ_and_have_63_bits() -> None:
    seeds = {derive(seed, label, step) for seed in (1, 2) for label in ("order", "dropout") for step in range(50)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
