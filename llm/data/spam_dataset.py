"""Labelled messages as padded batches of token ids (section 6.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm.data.batches import Batch
from llm.data.tokenizer import Tokenizer


class SpamDataset:
    """Messages as token ids, cut to `limit` tokens and padded on the right with <|endoftext|>.

    Rows of a batch have `width` tokens. If it is None, they are as long as the longest row of the micro-batch.
    """

    def __init__(self, labels: Sequence[int], texts: Sequence[str], tokenizer: Tokenizer, limit: int) -> None:
        self.labels, self.pad = list(labels), tokenizer.eot
        first = [] if tokenizer.bos is None else [tokenizer.bos]
        encoded = [[*first, *ids] for ids in tokenizer.encode_all(texts)]
        self.tokens = [len(ids) for ids in encoded]  # of each whole message
        self.ids = [ids[:limit] for ids in encoded]
        self.width: int | None = None

    @property
    def longest(self) -> int:
        return max(len(ids) for ids in self.ids)

    @property
    def cut(self) -> int:
        """Number of messages that are cut, to the limit or to `width`."""
        kept = (min(len(ids), self.width or len(ids)) for ids in self.ids)
        return sum(whole > length for whole, length in zip(self.tokens, kept, strict=True))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return ids (B, T), classes (B,) and lengths (B,)."""
        return pad_right([self.ids[i] for i in indices], self.pad, self.width, [self.labels[i] for i in indices])


def pad_right(rows: Sequence[Sequence[int]], pad: int, width: int | None, labels: Sequence[int]) -> Batch:
    """Collate rows of ids, cut or padded to `width` (None: the longest row). An empty row counts as one pad token."""
    trim = width is None  # without a fixed width, micro-batches may be narrower
    width = width or max(1, *(len(row) for row in rows))
    cut = [(list(row) or [pad])[:width] for row in rows]
    padded = [row + [pad] * (width - len(row)) for row in cut]
    lengths = torch.tensor([len(row) for row in cut])
    return Batch(torch.tensor(padded), torch.tensor(labels), lengths, trim)
