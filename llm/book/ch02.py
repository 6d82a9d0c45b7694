"""Chapter 2: words and punctuation as tokens, a vocabulary, sliding windows, embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<|unk|>"
SPLIT = re.compile(r"""([,.:;?_!"()']|--|\s)""")
BEFORE_PUNCTUATION = re.compile(r"""\s+([,.:;?!"()'])""")


def words(text: str) -> list[str]:
    """Words and punctuation marks of `text`; white space only separates (section 2.2)."""
    return [piece for piece in (part.strip() for part in SPLIT.split(text)) if piece]


def vocabulary(tokens: Iterable[str], special: Sequence[str] = ()) -> dict[str, int]:
    """An id for every different token in sorted order, then one for each special token (sections 2.3 and 2.4)."""
    return {token: number for number, token in enumerate([*sorted(set(tokens)), *special])}


class SimpleTokenizerV1:
    """Text to ids and back over a fixed vocabulary; a word that is not in it raises KeyError (section 2.3)."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self.ids = dict(ids)
        self.tokens = {number: token for token, number in ids.items()}

    def encode(self, text: str) -> list[int]:
        """The id of every token of `text`."""
        return [self.ids[token] for token in words(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """The tokens joined by spaces, none of them before a punctuation mark."""
        return BEFORE_PUNCTUATION.sub(r"\1", " ".join(self.tokens[number] for number in ids))


class SimpleTokenizerV2(SimpleTokenizerV1):
    """The same with `<|unk|>` for every word that the vocabulary lacks (section 2.4)."""

    def encode(self, text: str) -> list[int]:
        """The id of every token of `text`, that of `<|unk|>` where it has none."""
        return [self.ids.get(token, self.ids[UNKNOWN]) for token in words(text)]


class WindowDataset(Dataset[tuple[Tensor, Tensor]]):
    """Windows of `max_length` ids, `stride` apart, each with its targets one id on (section 2.6)."""

    def __init__(self, ids: Sequence[int], max_length: int, stride: int) -> None:
        self.ids, self.max_length = torch.tensor(ids), max_length
        self.starts = range(0, len(ids) - max_length, stride)

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one window, (max_length,) each."""
        start = self.starts[index]
        return self.ids[start : start + self.max_length], self.ids[start + 1 : start + self.max_length + 1]


def window_loader(
    ids: Sequence[int],
    batch_size: int = 4,
    max_length: int = 256,
    stride: int = 128,
    shuffle: bool = True,
    drop_last: bool = True,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of windows, with the book's defaults (section 2.6; exercise 2.2 asks for lengths 2 and 8, stride 2)."""
    return DataLoader(WindowDataset(ids, max_length, stride), batch_size, shuffle=shuffle, drop_last=drop_last)


class InputEmbedding(nn.Module):
    """A vector for the token plus one for its place (sections 2.7 and 2.8)."""

    def __init__(self, vocab_size: int, context_length: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocab_size, width)
        self.position = nn.Embedding(context_length, width)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, width)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.token(ids) + self.position(places)  # type: ignore[no-any-return]
