"""Windows over token shards, compared with the book's loader, and splits that are too short."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.common.errors import USAGE, UserError
from llm.data.corpus import Pins, write_shards
from llm.data.corpus_dataset import TokenWindows
from llm.data.tokenizer import Tokenizer

PINS = Pins(1000, "hash of the tokenizer")


def write(folder: Path, ids: list[int], shard_tokens: int = 10**6, pins: Pins = PINS, split: str = "train") -> Path:
    """Write `ids` and return the path of the first shard."""
    folder.mkdir(exist_ok=True)
    write_shards(folder, split, np.array(ids, dtype=np.uint32), 77, pins, shard_tokens)
    return folder / f"{split}-00000.bin"


def book_rows(ids: list[int], length: int, stride: int) -> list[tuple[list[int], list[int]]]:
    """Return the rows of the book's GPTDatasetV1 (section 2.6)."""
    starts = range(0, len(ids) - length, stride)
    return [(ids[i : i + length], ids[i + 1 : i + length + 1]) for i in starts]


def all_rows(windows: TokenWindows) -> list[tuple[list[int], list[int]]]:
    batch = windows.batch(range(len(windows)))
    return list(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True))


# Windows


@settings(deadline=None, max_examples=80)
@given(count=st.integers(2, 40), length=st.integers(1, 12), stride=st.integers(1, 12), shard=st.integers(2, 50))
def test_windows_are_the_rows_of_the_book_in_each_shard(
    tmp_path_factory: pytest.TempPathFactory, count: int, length: int, stride: int, shard: int
) -> None:
    folder, ids = tmp_path_factory.mktemp("shards"), list(range(count))
    write(folder, ids, shard)
    expected = [row for i in range(0, count, shard) for row in book_rows(ids[i : i + shard], length, stride)]
    if expected:
        assert all_rows(TokenWindows(folder, "train", length, stride, 1000)) == expected
    else:
        with pytest.raises(UserError):
            TokenWindows(folder, "train", length, stride, 1000)


@pytest.fixture(scope="module")
def verdict(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Verdict as GPT-2 tokens, as one split `all` and as the splits of the book."""
    vocab, folder = tmp_path_factory.mktemp("gpt2"), tmp_path_factory.mktemp("verdict")
    shutil.copyfile(mirror / "encoder.json", vocab / "vocab.json")
    shutil.copyfile(mirror / "vocab.bpe", vocab / "merges.txt")
    text, gpt2 = (mirror / "the-verdict.txt").read_text(), Tokenizer.load(vocab)
    cut = int(0.9 * len(text))
    for split, part in [("all", text), ("train", text[:cut]), ("val", text[cut:])]:
        write(folder, gpt2.encode(part), pins=Pins(50257, "gpt2"), split=split)
    return folder


@pytest.mark.parametrize(
    ("length", "stride", "rows", "first_targets"),
    [
        (4, 1, [[40, 367, 2885, 1464]], [367, 2885, 1464, 1807]),
        (2, 2, [[40, 367], [2885, 1464]], [367, 2885]),
        (8, 2, [[40, 367, 2885, 1464, 1807, 3619, 402, 271]], [367, 2885, 1464, 1807, 3619, 402, 271, 10899]),
    ],
)
def test_first_windows_of_the_verdict_are_the_books(
    verdict: Path, length: int, stride: int, rows: list[list[int]], first_targets: list[int]
) -> None:
    batch = TokenWindows(verdict, "all", length, stride, 50257).batch(range(len(rows)))
    assert batch.inputs.tolist() == rows
    assert batch.targets[0].tolist() == first_targets


@pytest.mark.parametrize(("split", "batches"), [("train", 9), ("val", 1)])
def test_the_verdict_makes_the_books_number_of_batches(verdict: Path, split: str, batches: int) -> None:
    assert len(TokenWindows(verdict, split, 256, 256, 50257)) == 2 * batches


def test_ids_above_65535_survive(tmp_path: Path) -> None:
    ids = [0, 65_535, 65_536, 99_999]
    write(tmp_path, ids, pins=Pins(100_000, "large"))
    assert all_rows(TokenWindows(tmp_path, "train", 3, 1, 100_000)) == book_rows(ids, 3, 1)


def test_batches_are_int64_and_contiguous(tmp_path: Path) -> None:
    write(tmp_path, list(range(9)))
    batch = TokenWindows(tmp_path, "train", 4, 2, 1000).batch([1, 0])
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.is_contiguous()
    assert batch.targets.is_contiguous()


def test_text_bytes_are_counted_once(tmp_path: Path) -> None:
    write(tmp_path, list(range(9)), shard_tokens=4)
    windows = TokenWindows(tmp_path, "train", 2, 2, 1000)
    assert (len(windows.shards), windows.tokens, windows.text_bytes) == (3, 9, 77)


# Short splits


def test_a_short_split_names_the_largest_context(tmp_path: Path) -> None:
    write(tmp_path, list(range(10)))
    with pytest.raises(
        UserError, match=r"context: 10 tokens.* only 10 tokens .*pretrain\.context to 9 or less"
    ) as caught:
        TokenWindows(tmp_path, "train", 10, 1, 1000)
    assert caught.value.code == USAGE
    assert len(TokenWindows(tmp_path, "train", 9, 1, 1000)) == 1
    short = "pretrain.short_windows.context"
    with pytest.raises(UserError, match=rf"params\.yaml: {short}: .* fix: set {short} to 9 or less"):
        TokenWindows(tmp_path, "train", 10, 1, 1000, short)


@pytest.mark.parametrize("ids", [[], [5]], ids=["no token", "one token"])
def test_a_split_of_one_token_asks_for_more_text(tmp_path: Path, ids: list[int]) -> None:
    write(tmp_path, ids)
    with pytest.raises(UserError, match=rf"only {len(ids)} tokens \| fix: add text$"):
        TokenWindows(tmp_path, "train", 4, 1, 1000)


def test_missing_split_is_named(tmp_path: Path) -> None:
    write(tmp_path, [1, 2, 3])
    with pytest.raises(UserError, match="contains no val shard"):
        TokenWindows(tmp_path, "val", 1, 1, 1000)
