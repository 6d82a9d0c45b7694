"""Chapter 2: tokens, a vocabulary, sliding windows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from llm.data.tokenizer import Tokenizer

END_OF_TEXT, UNKNOWN = "<|endoftext|>", "<|unk|>"
SPLIT = re.compile(r"""([,.:;?_!"()']|--|\s)""")
BEFORE_PUNCTUATION = re.compile(r"""\s+([,.?!"()'])""")
BEFORE_MORE = re.compile(r"""\s+([,.:;?!"()'])""")  # of SimpleTokenizerV2


def words(text: str) -> list[str]:
    """Split `text` into words and punctuation marks, without white space (section 2.2)."""
    return [piece for piece in (part.strip() for part in SPLIT.split(text)) if piece]


def vocabulary(tokens: Iterable[str], special: Sequence[str] = ()) -> dict[str, int]:
    """Number the distinct tokens in sorted order, then the special tokens (sections 2.3, 2.4)."""
    return {token: number for number, token in enumerate([*sorted(set(tokens)), *special])}


class SimpleTokenizerV1:
    """Text to ids and back with a fixed vocabulary (section 2.3)."""

    _before = BEFORE_PUNCTUATION

    def __init__(self, vocab: Mapping[str, int]) -> None:
        self.str_to_int = dict(vocab)
        self.int_to_str = {number: token for token, number in vocab.items()}

    def encode(self, text: str) -> list[int]:
        """Ids of the tokens of `text`; raises KeyError for a word that is not in the vocabulary."""
        return [self.str_to_int[token] for token in words(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Join the tokens with spaces, but without a space before punctuation."""
        return self._before.sub(r"\1", " ".join(self.int_to_str[number] for number in ids))


class SimpleTokenizerV2(SimpleTokenizerV1):
    """The same, with `<|unk|>` for words that are not in the vocabulary (section 2.4)."""

    _before = BEFORE_MORE

    def encode(self, text: str) -> list[int]:
        """Ids of the tokens of `text`."""
        return [self.str_to_int.get(token, self.str_to_int[UNKNOWN]) for token in words(text)]


AnyTokenizer = SimpleTokenizerV1 | Tokenizer


class GPTDatasetV1(Dataset[tuple[Tensor, Tensor]]):
    """Windows of `max_length` ids, one every `stride` ids; the targets are the ids one place later (section 2.6)."""

    def __init__(self, txt: str, tokenizer: AnyTokenizer, max_length: int, stride: int) -> None:
        ids = torch.tensor(tokenizer.encode(txt))
        starts = range(0, len(ids) - max_length, stride)
        self.input_ids = [ids[start : start + max_length] for start in starts]
        self.target_ids = [ids[start + 1 : start + max_length + 1] for start in starts]

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.input_ids[index], self.target_ids[index]


def create_dataloader_v1(
    txt: str,
    tokenizer: AnyTokenizer,
    batch_size: int = 4,
    max_length: int = 256,
    stride: int = 128,
    shuffle: bool = True,
    drop_last: bool = True,
    num_workers: int = 0,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of windows of a text, with the book's defaults (section 2.6).

    The book's function loads GPT-2's tokenizer itself; here the caller passes a tokenizer.
    """
    dataset = GPTDatasetV1(txt, tokenizer, max_length, stride)
    return DataLoader(dataset, batch_size, shuffle=shuffle, drop_last=drop_last, num_workers=num_workers)
