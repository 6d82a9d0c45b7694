"""Labelled messages as token ids, padded into batches (section 6.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm.data.batches import Batch
from llm.data.tokenizer import Tokenizer


class SpamDataset:
    """Messages as token ids, padded on the right with <|endoftext|> when batched.

    Every row is `width` tokens wide (longer messages are cut), or where that is None as wide as the longest of its
    batch, or of its micro-batch.
    """

    def __init__(self, labels: Sequence[int], texts: Sequence[str], tokenizer: Tokenizer, limit: int) -> None:
        self.labels, self.pad = list(labels), tokenizer.eot
        self.ids = [ids[:limit] for ids in tokenizer.encode_all(texts)]
        self.width: int | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest message."""
        return max(len(ids) for ids in self.ids)

    def __len__(self) -> int:
        """How many messages there are."""
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The messages of these numbers: ids (B, T), classes (B,), lengths (B,)."""
        return pad_right([self.ids[i] for i in indices], self.pad, self.width, [self.labels[i] for i in indices])


def pad_right(rows: Sequence[Sequence[int]], pad: int, width: int | None, labels: Sequence[int]) -> Batch:
    """Rows of ids as a batch of `width` (None: the longest row) columns; an empty row is one token of padding."""
    trim = width is None  # nobody asked for this width, so micro-batches may have a smaller one
    width = width or max(1, *(len(row) for row in rows))
    cut = [(list(row) or [pad])[:width] for row in rows]
    padded = [row + [pad] * (width - len(row)) for row in cut]
    lengths = torch.tensor([len(row) for row in cut])
    return Batch(torch.tensor(padded), torch.tensor(labels), lengths, trim)
