"""How a corpus is split, and its token ids in memory-mapped shards.

A shard is a header line of JSON, padded to 512 bytes, followed by the token ids: uint16, or uint32 for more than 65,536
tokens in the vocabulary. The header has the vocabulary size, the tokenizer, the count and the SHA-256 of the ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llm.common.errors import DATA, UserError
from llm.common.files import atomic_path
from llm.common.params import Problem, fraction, positive

MAGIC, HEADER_BYTES = "llm-tokens-1", 512
BLOCK = 1 << 20  # tokens in memory at once
HEADER_KEYS = {"magic", "dtype", "count", "text_bytes", "vocab_size", "tokenizer", "sha256"}


@dataclass(frozen=True)
class CorpusConfig:
    """Section `tokenize.corpus` of params.yaml."""

    train_fraction: float  # of the tokens or characters, at the start of the corpus
    split_by: Literal["tokens", "characters"]  # characters: cut at the very character, as in the book
    separator: str | None  # string between two documents of a text file; replaced by <|endoftext|>
    shard_tokens: int  # tokens in one shard

    def problems(self) -> Iterator[Problem]:
        yield from fraction(self, "train_fraction", zero=False)
        yield from positive(self, "shard_tokens")
        if self.separator == "":
            yield "separator", "is empty", "write null for one document in each file"


@dataclass(frozen=True)
class Pins:
    """The tokenizer whose ids a shard contains."""

    vocab_size: int
    tokenizer: str  # its `fingerprint`


class Ids(Protocol):
    """Token ids (N,): an array, or something that reads its slices from disk."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> NDArray[Any]: ...


def id_type(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """Return the smallest type of a shard that can hold the ids of a vocabulary."""
    return np.uint16 if vocab_size <= 2**16 else np.uint32


def blocks(ids: Ids, start: int = 0, stop: int | None = None) -> Iterator[NDArray[Any]]:
    """Yield `ids[start:stop]` in blocks of BLOCK tokens."""
    stop = len(ids) if stop is None else min(stop, len(ids))
    for at in range(start, stop, BLOCK):
        yield ids[at : min(at + BLOCK, stop)]


def write_shards(folder: Path, split: str, ids: Ids, text_bytes: int, pins: Pins, shard_tokens: int) -> None:
    """Write `ids` as `<split>-00000.bin`, ... of `shard_tokens` each. `text_bytes` is the size of their text.

    Holds BLOCK tokens at a time.
    """
    kind = id_type(pins.vocab_size)
    for number, start in enumerate(range(0, max(1, len(ids)), shard_tokens)):
        header = {
            "magic": MAGIC,
            "dtype": kind.__name__,
            "count": min(shard_tokens, len(ids) - start),
            "text_bytes": text_bytes if number == 0 else 0,  # of the whole split, for bits per byte
            "vocab_size": pins.vocab_size,
            "tokenizer": pins.tokenizer,
        }
        digest = hashlib.sha256()
        with atomic_path(folder / f"{split}-{number:05d}.bin") as path, path.open("wb") as file:
            file.write(bytes(HEADER_BYTES))
            for block in blocks(ids, start, start + shard_tokens):
                body = block.astype(kind, copy=False).data
                digest.update(body)
                file.write(body)
            file.seek(0)
            file.write(_header_line(header | {"sha256": digest.hexdigest()}))


def read_split(folder: Path, split: str, vocab_size: int) -> list[tuple[NDArray[Any], dict[str, Any]]]:
    """Read the shards of a split and their headers. Raises UserError as `read_shard` does, or if there is none."""
    paths = sorted(folder.glob(f"{split}-*.bin"))
    if not paths:
        raise UserError(str(folder), f"contains no {split} shard", "run `dvc repro tokenize`", DATA)
    return [read_shard(path, vocab_size) for path in paths]


def read_shard(path: Path, vocab_size: int) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return the ids of a shard (N,), memory-mapped, and its header.

    Raises UserError for an invalid header, another vocabulary size, a wrong length or hash, or an id that is too large.
    """
    again = "run `dvc repro tokenize` again"
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    try:
        header = json.loads(start)
        kind = np.dtype({"uint16": np.uint16, "uint32": np.uint32}[header["dtype"]])
        whole = all(type(header[key]) is int and header[key] >= 0 for key in ("count", "text_bytes", "vocab_size"))
        if header["magic"] != MAGIC or not header.keys() >= HEADER_KEYS or not whole or start != _header_line(header):
            raise KeyError  # the last comparison also finds duplicate keys
    except (ValueError, KeyError, TypeError):
        raise UserError(str(path), f"not a token shard: starts with {start[:20]!r}", again, DATA) from None
    if header["vocab_size"] != vocab_size:
        what = f"written for a vocabulary of {header['vocab_size']} tokens, but the tokenizer has {vocab_size}"
        raise UserError(str(path), what, again, DATA)
    expected = header["count"] * kind.itemsize
    found = path.stat().st_size - HEADER_BYTES
    if found != expected:
        raise UserError(str(path), f"has {found} bytes of tokens, not {expected} as in its header", again, DATA)
    if header["count"] == 0:
        return np.empty(0, dtype=kind), header
    ids: NDArray[Any] = np.memmap(path, dtype=kind, mode="r", offset=HEADER_BYTES)
    digest = hashlib.sha256(ids.data).hexdigest()
    if digest != header["sha256"]:
        raise UserError(str(path), f"sha256 is {digest}, not {header['sha256']} as in its header", again, DATA)
    if int(ids.max()) >= vocab_size:
        raise UserError(str(path), f"token id {int(ids.max())} is not below vocab_size ({vocab_size})", again, DATA)
    return ids, header


def _header_line(header: dict[str, Any]) -> bytes:
    return json.dumps(header).encode().ljust(HEADER_BYTES - 1) + b"\n"
