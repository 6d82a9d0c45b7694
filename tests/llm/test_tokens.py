"""Token shards and their windows: the book's loader as the reference, and every damaged file refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import tokens
from llm.errors import DATA, USAGE, UserError
from llm.token_windows import TokenWindows
from llm.tokenizer import Tokenizer
from llm.tokens import HEADER_BYTES, CorpusConfig, Pins, encode_documents, read_shard, write_shards

PINS = Pins(1000, "hash of the tokenizer")


def write(folder: Path, ids: list[int], shard_tokens: int = 10**6, pins: Pins = PINS, split: str = "train") -> Path:
    """Write `ids`; returns the first shard."""
    folder.mkdir(exist_ok=True)
    write_shards(folder, split, np.array(ids, dtype=np.uint32), 77, pins, shard_tokens)
    return folder / f"{split}-00000.bin"


def book_rows(ids: list[int], length: int, stride: int) -> list[tuple[list[int], list[int]]]:
    """The rows of the book's GPTDatasetV1 (section 2.6)."""
    starts = range(0, len(ids) - length, stride)
    return [(ids[i : i + length], ids[i + 1 : i + length + 1]) for i in starts]


def all_rows(windows: TokenWindows) -> list[tuple[list[int], list[int]]]:
    batch = windows.batch(range(len(windows)))
    return list(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True))


# Windows


@settings(deadline=None, max_examples=80)
@given(count=st.integers(2, 40), length=st.integers(1, 12), stride=st.integers(1, 12), shard=st.integers(2, 50))
def test_windows_are_the_books_rows_of_every_shard(
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
    """The Verdict under GPT-2's vocabulary: split `all` is the whole text, train and val are the book's cut."""
    vocab, folder = tmp_path_factory.mktemp("gpt2"), tmp_path_factory.mktemp("verdict")
    shutil.copyfile(mirror / "encoder.json", vocab / "vocab.json")
    shutil.copyfile(mirror / "vocab.bpe", vocab / "merges.txt")
    text, gpt2 = (mirror / "the-verdict.txt").read_text(), Tokenizer.load(vocab)
    (train,), (val,) = tokens.split_documents([text], 0.9)
    for split, part in [("all", text), ("train", train), ("val", val)]:
        write(folder, encode_documents([part], gpt2).tolist(), pins=Pins(50257, "gpt2"), split=split)
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


def test_shards_are_memory_mapped(tmp_path: Path) -> None:
    ids, _ = read_shard(write(tmp_path, [1, 2, 3]), 1000)
    assert isinstance(ids, np.memmap)


def test_text_bytes_count_once_over_all_shards(tmp_path: Path) -> None:
    write(tmp_path, list(range(9)), shard_tokens=4)
    windows = TokenWindows(tmp_path, "train", 2, 2, 1000)
    assert (len(windows.shards), windows.tokens, windows.text_bytes) == (3, 9, 77)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a", [1, 2, 3]).read_bytes() == write(tmp_path / "b", [1, 2, 3]).read_bytes()


# Too little text


def test_split_shorter_than_the_context_names_the_largest_usable_value(tmp_path: Path) -> None:
    write(tmp_path, list(range(10)))
    with pytest.raises(
        UserError, match=r"windows of 10 tokens.* only 10 tokens .*pretrain\.context to 9 or less"
    ) as caught:
        TokenWindows(tmp_path, "train", 10, 1, 1000)
    assert caught.value.code == USAGE
    assert len(TokenWindows(tmp_path, "train", 9, 1, 1000)) == 1
    short = "pretrain.short_windows.context"
    with pytest.raises(UserError, match=rf"params\.yaml: {short}: .* fix: set {short} to 9 or less"):
        TokenWindows(tmp_path, "train", 10, 1, 1000, short)


@pytest.mark.parametrize("ids", [[], [5]], ids=["no token", "one token"])
def test_split_without_any_window_asks_for_more_text(tmp_path: Path, ids: list[int]) -> None:
    write(tmp_path, ids)
    with pytest.raises(UserError, match=rf"only {len(ids)} tokens \| fix: bring more text$"):
        TokenWindows(tmp_path, "train", 4, 1, 1000)


def test_missing_split_is_named(tmp_path: Path) -> None:
    write(tmp_path, [1, 2, 3])
    with pytest.raises(UserError, match="holds no val shard"):
        TokenWindows(tmp_path, "val", 1, 1, 1000)


# Damaged shards


def edit_header(**changes: object) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        header = {k: v for k, v in (json.loads(data[:HEADER_BYTES]) | changes).items() if v is not None}
        return json.dumps(header).encode().ljust(HEADER_BYTES - 1) + b"\n" + data[HEADER_BYTES:]

    return edit


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", r"not a token shard: begins with b''"),
    "no header": (lambda data: data[HEADER_BYTES:], r"not a token shard: begins with b'\\x00\\x00\\x01"),
    "pickle": (lambda data: b"\x80\x04cposix\nsystem\n", "not a token shard"),
    "object npy": (lambda data: b"\x93NUMPY\x01\x00v\x00{'descr': '|O'", "not a token shard"),
    "foreign magic": (edit_header(magic="llm-tokens-0"), "not a token shard"),
    "unknown dtype": (edit_header(dtype="int8"), "not a token shard"),
    "no count": (edit_header(count=None), "not a token shard"),
    "no vocabulary": (edit_header(vocab_size=None), "not a token shard"),
    "no hash": (edit_header(sha256=None), "not a token shard"),
    "wrong dtype": (edit_header(dtype="uint32"), "holds 12 bytes of tokens, its header says 24"),
    "other vocabulary": (edit_header(vocab_size=999), "vocabulary of 999, but the model has 1000"),
    "truncated": (lambda data: data[:-2], "holds 10 bytes of tokens, its header says 12"),
    "odd": (lambda data: data[:-1], "holds 11 bytes of tokens, its header says 12"),
    "trailing bytes": (lambda data: data + b"\0\0", "holds 14 bytes of tokens, its header says 12"),
    "flipped bit": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), r"sha256 \w+ is not the header's"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_shard_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = write(tmp_path, [0, 1, 2, 3, 4, 5])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        read_shard(path, 1000)
    assert (caught.value.where, caught.value.code) == (str(path), DATA)


def test_undamaged_shard_is_accepted(tmp_path: Path) -> None:
    path = write(tmp_path, [0, 1, 2, 3, 4, 5])
    path.write_bytes(edit_header()(path.read_bytes()))
    assert read_shard(path, 1000)[0].tolist() == [0, 1, 2, 3, 4, 5]


def test_id_above_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"token id 1000 is not below vocab_size \(1000\)"):
        read_shard(write(tmp_path, [999, 1000]), 1000)
    assert read_shard(write(tmp_path, [999, 998]), 1000)[0].tolist() == [999, 998]


# Documents


def test_special_token_stands_between_two_documents(vocabulary: Path) -> None:
    ours = Tokenizer.load(vocabulary)
    ids = encode_documents(["one", "two"], ours).tolist()
    assert ids == [*ours.encode("one"), ours.eot, *ours.encode("two")]


def test_documents_come_in_the_order_of_the_file_names(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("three")
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n\n\n")
    assert tokens.read_documents(tmp_path, "\n\n") == ["one", "two", "three"]
    assert tokens.read_documents(tmp_path, None) == ["one\n\ntwo\n\n\n\n", "three"]


def test_folder_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no text file"):
        tokens.read_documents(tmp_path, None)


@pytest.mark.parametrize("content", [b"", b"\n\n \n\n", b"\xef\xbb\xbf"], ids=["no byte", "line ends", "a mark"])
@pytest.mark.parametrize("separator", [None, "\n\n"])
def test_empty_text_file_is_refused(tmp_path: Path, content: bytes, separator: str | None) -> None:
    (tmp_path / "a.txt").write_text("one")
    assert tokens.read_documents(tmp_path, separator) == ["one"]
    (tmp_path / "b.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"b\.txt: the file is empty \({len(content)} bytes\)") as caught:
        tokens.read_documents(tmp_path, separator)
    assert caught.value.code == DATA


@pytest.mark.parametrize("text", ["a\u2028b", "a\x85b", "a\x0cb"], ids=ascii)
def test_foreign_line_end_stays_in_the_corpus(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert tokens.read_documents(tmp_path, "\n\n") == [text]


def test_special_token_in_the_corpus_is_ordinary_text(vocabulary: Path) -> None:
    ours = Tokenizer.load(vocabulary)
    ids = encode_documents(["a<|endoftext|>b", "c"], ours).tolist()
    assert ids.count(ours.eot) == 1  # the one between the two
    assert ours.decode(ids[: ids.index(ours.eot)]) == "a<|endoftext|>b"


def test_one_document_is_cut_at_a_fraction_of_its_characters() -> None:
    assert tokens.split_documents(["0123456789"], 0.9) == (["012345678"], ["9"])


def test_several_documents_are_cut_between_two() -> None:
    assert tokens.split_documents(["aa", "b", "c", "d"], 0.75) == (["aa", "b", "c"], ["d"])


def test_empty_separator_is_a_problem() -> None:
    assert [name for name, *_ in CorpusConfig(0.9, "", 10).problems()] == ["separator"]
    assert not list(CorpusConfig(0.9, None, 10).problems())
