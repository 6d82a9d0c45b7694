"""Token shards, and damaged ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llm.common.errors import DATA, UserError
from llm.data import corpus
from llm.data.corpus import HEADER_BYTES, CorpusConfig, Pins, read_shard, write_shards

PINS = Pins(1000, "hash of the tokenizer")


def write(folder: Path, ids: list[int]) -> Path:
    """Write `ids` and return the path of their shard."""
    folder.mkdir(exist_ok=True)
    write_shards(folder, "train", np.array(ids, dtype=np.uint32), 77, PINS, 10**6)
    return folder / "train-00000.bin"


# Shards


def test_shards_are_memory_mapped(tmp_path: Path) -> None:
    ids, _ = read_shard(write(tmp_path, [1, 2, 3]), 1000)
    assert isinstance(ids, np.memmap)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a", [1, 2, 3]).read_bytes() == write(tmp_path / "b", [1, 2, 3]).read_bytes()


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_the_size_of_the_blocks_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    ids = np.arange(11, dtype=np.uint32)
    write_shards(tmp_path / "whole", "train", ids, 77, PINS, 4)
    monkeypatch.setattr(corpus, "BLOCK", block)
    write_shards(tmp_path / "blocks", "train", ids, 77, PINS, 4)
    names = [f"train-0000{number}.bin" for number in range(3)]
    assert sorted(path.name for path in (tmp_path / "blocks").iterdir()) == names
    assert all((tmp_path / "whole" / n).read_bytes() == (tmp_path / "blocks" / n).read_bytes() for n in names)
    assert [read_shard(tmp_path / "blocks" / n, 1000)[0].tolist() for n in names] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10],
    ]


# Damaged shards


def edit_header(**changes: object) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        header = {k: v for k, v in (json.loads(data[:HEADER_BYTES]) | changes).items() if v is not None}
        return json.dumps(header).encode().ljust(HEADER_BYTES - 1) + b"\n" + data[HEADER_BYTES:]

    return edit


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", r"not a token shard: starts with b''"),
    "no header": (lambda data: data[HEADER_BYTES:], r"not a token shard: starts with b'\\x00\\x00\\x01"),
    "pickle": (lambda data: b"\x80\x04cposix\nsystem\n", "not a token shard"),
    "object npy": (lambda data: b"\x93NUMPY\x01\x00v\x00{'descr': '|O'", "not a token shard"),
    "foreign magic": (edit_header(magic="llm-tokens-0"), "not a token shard"),
    "unknown dtype": (edit_header(dtype="int8"), "not a token shard"),
    "no count": (edit_header(count=None), "not a token shard"),
    "no vocabulary": (edit_header(vocab_size=None), "not a token shard"),
    "no hash": (edit_header(sha256=None), "not a token shard"),
    "wrong dtype": (edit_header(dtype="uint32"), "has 12 bytes of tokens, not 24 as in its header"),
    "other vocabulary": (edit_header(vocab_size=999), "vocabulary of 999 tokens, but the tokenizer has 1000"),
    "truncated": (lambda data: data[:-2], "has 10 bytes of tokens, not 12 as in its header"),
    "odd": (lambda data: data[:-1], "has 11 bytes of tokens, not 12 as in its header"),
    "trailing bytes": (lambda data: data + b"\0\0", "has 14 bytes of tokens, not 12 as in its header"),
    "flipped bit": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), r"sha256 is \w+, not \w+ as in its header"),
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


# The section of params.yaml


def test_empty_separator_is_a_problem() -> None:
    assert [name for name, *_ in CorpusConfig(0.9, "tokens", "", 10).problems()] == ["separator"]
    assert not list(CorpusConfig(0.9, "tokens", None, 10).problems())
