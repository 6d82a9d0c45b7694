"""Token shards on disk, memory-mapped, and the sliding windows over them that training reads (section 2.6).

A shard is a header line of JSON, padded to 512 bytes, followed by the token ids (uint16, or uint32 for vocabularies
above 65,536). The header pins what the ids mean: vocabulary, tokenizer, count and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llm.batches import Batch
from llm.errors import DATA, USAGE, UserError
from llm.files import read_text, write_bytes
from llm.optim import TrainConfig
from llm.params import Problem, fraction, positive
from llm.tokenizer import Tokenizer

MAGIC, HEADER_BYTES = "llm-tokens-1", 512
HEADER_KEYS = {"magic", "dtype", "count", "text_bytes", "vocab_size", "tokenizer", "sha256"}


@dataclass(frozen=True)
class CorpusConfig:
    """How raw text becomes training and validation tokens."""

    train_fraction: float  # of the documents, or of the characters where there is one document only
    separator: str | None  # text between two documents of one file; it becomes <|endoftext|>
    shard_tokens: int  # tokens in one file

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from fraction(self, "train_fraction", zero=False)
        yield from positive(self, "shard_tokens")
        if self.separator == "":
            yield "separator", "is the empty text", "write null for one document a file"


@dataclass(frozen=True)
class ShortWindows:
    """Updates on shorter windows before the others: many small steps learn the words and facts first."""

    steps: int
    context: int
    batch_size: int

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from positive(self, "steps", "context", "batch_size")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Which windows over the tokens make a training run, and what it prints on the way."""

    context: int  # tokens in a window
    stride: int  # tokens from the start of one window to the next
    short_windows: ShortWindows | None
    sample_prompt: str  # continued greedily at every evaluation, with mode book after every epoch
    sample_tokens: int
    save_optimizer: bool  # AdamW's moments beside the model, from which training can go on (exercise 5.4)
    compile: bool  # the training passes by PyTorch's compiler (compiled.py)
    mode: Literal["exact", "book"]  # book: all that is random hangs together as in chapter 5 (book_mode.py)

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        yield from super().problems()
        yield from positive(self, "context", "stride", "sample_tokens")
        if not self.sample_prompt:
            yield "sample_prompt", "is empty", "write a few words"
        if self.save_optimizer and self.keep == "best":
            yield "save_optimizer", "is true, but goes with the last weights, and keep is best", "keep the last"
        if self.mode == "book" and self.short_windows is not None:
            yield "short_windows", "are there, but mode book knows one size of window", "set it to null"
        if self.mode == "book" and self.save_every is not None:
            what = f"{self.save_every}, but with mode book a run that was stopped cannot go on from a state"
            yield "save_every", what, "set it to null"
        if self.mode == "book" and self.compile:
            yield "compile", "is true, but the digits of mode book are those of uncompiled steps", "set it to false"
        if self.mode == "book" and (self.keep, self.patience) != ("last", None):
            name = "patience" if self.keep == "last" else "keep"
            what = f"{getattr(self, name)!r}, but mode book first looks at other batches: its losses do not compare"
            yield name, what, "set keep to last and patience to null"


def read_documents(folder: Path, separator: str | None) -> list[str]:
    """The documents of every text file of `folder`, in the order of the names; raises UserError for none."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    texts = [read_text(path) for path in files]
    if not texts:
        raise UserError(str(folder), "holds no text file", "check params.yaml: download.corpus")
    if separator is None:
        return texts
    return [document for text in texts for document in text.split(separator) if document.strip()]


def split_documents(documents: Sequence[str], train_fraction: float) -> tuple[list[str], list[str]]:
    """Training and validation documents; a single document is cut at that fraction of its characters."""
    if len(documents) == 1:
        cut = int(train_fraction * len(documents[0]))
        return [documents[0][:cut]], [documents[0][cut:]]
    cut = int(train_fraction * len(documents))
    return list(documents[:cut]), list(documents[cut:])


def encode_documents(documents: Sequence[str], tokenizer: Tokenizer) -> NDArray[np.uint32]:
    """Token ids of all documents in a row, with <|endoftext|> between two of them."""
    parts: list[int] = []
    for ids in tokenizer.encode_all(documents):
        if parts:
            parts.append(tokenizer.eot)
        parts.extend(ids)
    return np.array(parts, dtype=np.uint32)


@dataclass(frozen=True)
class Pins:
    """What the ids of a shard mean."""

    vocab_size: int
    tokenizer: str  # `tokenizer.fingerprint` of the folder


def write_shards(
    folder: Path, split: str, ids: NDArray[np.uint32], text_bytes: int, pins: Pins, shard_tokens: int
) -> None:
    """Write `ids`, which stand for `text_bytes` bytes of text, as `<split>-00000.bin` ... of `shard_tokens` each."""
    kind = np.uint16 if pins.vocab_size <= 2**16 else np.uint32
    for number, start in enumerate(range(0, max(1, len(ids)), shard_tokens)):
        body = ids[start : start + shard_tokens].astype(kind).tobytes()
        header = {
            "magic": MAGIC,
            "dtype": kind.__name__,
            "count": min(shard_tokens, len(ids) - start),
            "text_bytes": text_bytes if number == 0 else 0,  # of the whole split, for bits per byte
            "vocab_size": pins.vocab_size,
            "tokenizer": pins.tokenizer,
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        write_bytes(folder / f"{split}-{number:05d}.bin", _header_line(header) + body)


class TokenWindows:
    """Windows of `length` tokens, `stride` apart, with their targets one token on.

    As in the book's loader, a window starts at every multiple of `stride` at which a whole window and its target
    follow; windows never cross two shards. Raises UserError for a damaged shard and for a split too short.
    """

    def __init__(self, folder: Path, split: str, length: int, stride: int, vocab_size: int) -> None:
        self.length, self.stride = length, stride
        self.shards, headers = zip(*(read_shard(path, vocab_size) for path in _shards(folder, split)), strict=True)
        self.tokens = sum(len(shard) for shard in self.shards)
        self.text_bytes = sum(int(header["text_bytes"]) for header in headers)
        self.tokenizers = {str(header["tokenizer"]) for header in headers}  # whose ids these are
        per_shard = [len(range(0, len(shard) - length, stride)) for shard in self.shards]
        self._firsts = np.cumsum([0, *per_shard])
        if self._firsts[-1] == 0:
            largest = max(len(shard) for shard in self.shards) - 1  # a target follows the window
            what = f"windows of {length} tokens, but the {split} split of {folder} has only {self.tokens} tokens"
            fix = f"set pretrain.context to {largest} or less, or bring more text" if largest > 0 else "bring more text"
            raise UserError("params.yaml: pretrain.context", what, fix, USAGE)

    def __len__(self) -> int:
        """How many windows there are."""
        return int(self._firsts[-1])

    def batch(self, indices: Sequence[int]) -> Batch:
        """Windows of these numbers as (B, length) inputs and targets."""
        rows = np.stack([self._window(index) for index in indices]).astype(np.int64)
        ids = torch.from_numpy(rows)
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())

    def _window(self, index: int) -> NDArray[Any]:
        shard = int(np.searchsorted(self._firsts, index, side="right")) - 1
        start = (index - int(self._firsts[shard])) * self.stride
        window: NDArray[Any] = self.shards[shard][start : start + self.length + 1]
        return window


def read_shard(path: Path, vocab_size: int) -> tuple[NDArray[Any], dict[str, Any]]:
    """The ids of a shard, memory-mapped, and its header; everything the header says is checked.

    Raises UserError for a wrong header, another vocabulary, a wrong length, a changed byte, an id too large.
    """
    again = "run `dvc repro tokenize` again"
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    try:
        header = json.loads(start)
        kind = np.dtype({"uint16": np.uint16, "uint32": np.uint32}[header["dtype"]])
        whole = all(type(header[key]) is int and header[key] >= 0 for key in ("count", "text_bytes", "vocab_size"))
        if header["magic"] != MAGIC or not header.keys() >= HEADER_KEYS or not whole or start != _header_line(header):
            raise KeyError  # the last also where a key stands twice
    except (ValueError, KeyError, TypeError):
        raise UserError(str(path), f"not a token shard: begins with {start[:20]!r}", again, DATA) from None
    if header["vocab_size"] != vocab_size:
        what = f"written for a vocabulary of {header['vocab_size']}, but the model has {vocab_size}"
        raise UserError(str(path), what, "make model.vocab_size and tokenizer.vocab_size equal", DATA)
    expected = header["count"] * kind.itemsize
    there = path.stat().st_size - HEADER_BYTES
    if there != expected:
        raise UserError(str(path), f"holds {there} bytes of tokens, its header says {expected}", again, DATA)
    if header["count"] == 0:
        return np.empty(0, dtype=kind), header
    ids: NDArray[Any] = np.memmap(path, dtype=kind, mode="r", offset=HEADER_BYTES)
    digest = hashlib.sha256(ids.data).hexdigest()
    if digest != header["sha256"]:
        raise UserError(str(path), f"sha256 {digest} is not the header's {header['sha256']}", again, DATA)
    if int(ids.max()) >= vocab_size:
        raise UserError(str(path), f"token id {int(ids.max())} is not below vocab_size ({vocab_size})", again, DATA)
    return ids, header


def _header_line(header: dict[str, Any]) -> bytes:
    return json.dumps(header).encode().ljust(HEADER_BYTES - 1) + b"\n"


def _shards(folder: Path, split: str) -> list[Path]:
    paths = sorted(folder.glob(f"{split}-*.bin"))
    if not paths:
        raise UserError(str(folder), f"holds no {split} shard", "run `dvc repro tokenize`", DATA)
    return paths
