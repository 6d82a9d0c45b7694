"""Sliding windows over the tokens of a corpus, for pretraining (section 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llm.common.errors import USAGE, UserError
from llm.data.batches import Batch
from llm.data.corpus import read_split


class TokenWindows:
    """Windows of `length` tokens, one for each `stride` tokens, with the targets shifted by one.

    As in the book's loader, only whole windows are used. A window never crosses two shards. Raises UserError for a
    damaged shard, and at the key `where` of params.yaml if the split has no window.
    """

    def __init__(
        self, folder: Path, split: str, length: int, stride: int, vocab_size: int, where: str = "pretrain.context"
    ) -> None:
        self.length, self.stride = length, stride
        self.shards, headers = zip(*read_split(folder, split, vocab_size), strict=True)
        self.tokens = sum(len(shard) for shard in self.shards)
        self.text_bytes = sum(int(header["text_bytes"]) for header in headers)
        self.tokenizers = {str(header["tokenizer"]) for header in headers}  # fingerprints
        per_shard = [len(range(0, len(shard) - length, stride)) for shard in self.shards]
        self._firsts = np.cumsum([0, *per_shard])
        if self._firsts[-1] == 0:
            largest = max(len(shard) for shard in self.shards) - 1  # one token less, for the target
            what = f"{length} tokens, but the {split} split of {folder} has only {self.tokens} tokens"
            fix = f"set {where} to {largest} or less, or add text" if largest > 0 else "add text"
            raise UserError(f"params.yaml: {where}", what, fix, USAGE)

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return inputs and targets (B, length)."""
        rows = np.stack([self._window(index) for index in indices]).astype(np.int64)
        ids = torch.from_numpy(rows)
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())

    def _window(self, index: int) -> NDArray[Any]:
        shard = int(np.searchsorted(self._firsts, index, side="right")) - 1
        start = (index - int(self._firsts[shard])) * self.stride
        window: NDArray[Any] = self.shards[shard][start : start + self.length + 1]
        return window
