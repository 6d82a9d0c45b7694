"""The sliding windows over the tokens of a corpus that pretraining reads (section 2.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from llm.batches import Batch
from llm.errors import USAGE, UserError
from llm.optim import TrainConfig
from llm.params import Problem, positive
from llm.tokens import read_split


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
    sample_prompt: str  # continued greedily along the way
    sample_tokens: int
    sample_after: Literal["evaluation", "epoch"]  # after each, and at the end
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


class TokenWindows:
    """Windows of `length` tokens, `stride` apart, with their targets one token on.

    As in the book's loader, a window starts at every multiple of `stride` at which a whole window and its target
    follow; windows never cross two shards. Raises UserError for a damaged shard and, at the key `where` of
    params.yaml, for a split too short.
    """

    def __init__(
        self, folder: Path, split: str, length: int, stride: int, vocab_size: int, where: str = "pretrain.context"
    ) -> None:
        self.length, self.stride = length, stride
        self.shards, headers = zip(*read_split(folder, split, vocab_size), strict=True)
        self.tokens = sum(len(shard) for shard in self.shards)
        self.text_bytes = sum(int(header["text_bytes"]) for header in headers)
        self.tokenizers = {str(header["tokenizer"]) for header in headers}  # whose ids these are
        per_shard = [len(range(0, len(shard) - length, stride)) for shard in self.shards]
        self._firsts = np.cumsum([0, *per_shard])
        if self._firsts[-1] == 0:
            largest = max(len(shard) for shard in self.shards) - 1  # a target follows the window
            what = f"windows of {length} tokens, but the {split} split of {folder} has only {self.tokens} tokens"
            fix = f"set {where} to {largest} or less, or bring more text" if largest > 0 else "bring more text"
            raise UserError(f"params.yaml: {where}", what, fix, USAGE)

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
