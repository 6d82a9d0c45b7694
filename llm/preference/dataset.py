"""Pairs as batches, with the log-probabilities of the reference model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llm.common.errors import DATA, UserError, collect_errors, raise_first
from llm.data.batches import Batch
from llm.data.instruction_dataset import next_tokens
from llm.data.instruction_lengths import Encoded, encode_entry
from llm.data.prompts import Frame
from llm.data.tokenizer import Tokenizer
from llm.preference.pairs import entries_of

KINDS = ("chosen", "rejected")


@dataclass(frozen=True)
class PairBatch(Batch):
    """P pairs: inputs and targets (P, 2, T), the chosen answer first. So a pair stays together in a micro-batch.

    `reference` (P, 2) are the log-probabilities of the answers before the training.
    """

    reference: Tensor | None = None

    @property
    def count(self) -> int:
        """Number of pairs."""
        return len(self.inputs)

    @property
    def tokens(self) -> int:
        """Number of input tokens, with padding."""
        return self.inputs.numel()


class PreferenceDataset:
    """Framed pairs. Targets outside the answers are IGNORED; an answer ends with the token that the frame puts there.

    Earlier answers of a chat belong to the question: they are the same in both rows, and no targets.

    Raises UserError with the numbers of all pairs in `name` that the frame refuses, or that have more than `limit`
    tokens.
    """

    def __init__(
        self, pairs: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, limit: int, frame: Frame, name: str
    ) -> None:
        self.pad = tokenizer.eot
        self._pairs: list[list[Encoded]] = []
        self.reference: Tensor | None = None  # (N, 2), as `loss.log_probabilities` gives them
        problems: list[UserError] = []
        for number, pair in enumerate(pairs, start=1):
            with collect_errors(problems):
                self._add(pair, tokenizer, frame, limit, f"{name}: pair {number}")
        raise_first(problems, name)

    def _add(self, pair: Mapping[str, Any], tokenizer: Tokenizer, frame: Frame, limit: int, where: str) -> None:
        try:
            encoded = [_of_last_answer(encode_entry(entry, frame, tokenizer)) for entry in entries_of(pair)]
        except UserError as error:
            raise UserError(where, error.what, error.fix, DATA) from None
        for kind, one in zip(KINDS, encoded, strict=True):
            if one.length > limit:
                what = f"question and {kind} answer have {one.length} tokens, more than the context of {limit}"
                raise UserError(where, what, "shorten it, or start from a model with a longer context", DATA)
        self._pairs.append(encoded)

    def __len__(self) -> int:
        return len(self._pairs)

    @property
    def longest(self) -> int:
        return max((one.length for pair in self._pairs for one in pair), default=0)

    def most_targets(self, pairs: int) -> int:
        """Return the largest number of targets in the rows of this many pairs."""
        counts = [sum(map(sum, (one.trained for one in pair))) for pair in self._pairs]
        return sum(sorted(counts)[-pairs:])

    def batch(self, indices: Sequence[int]) -> PairBatch:
        """Return inputs and targets (P, 2, T)."""
        rows = [one for i in indices for one in self._pairs[i]]
        inputs, targets = (part.view(len(indices), len(KINDS), -1) for part in next_tokens(rows, self.pad))
        reference = None if self.reference is None else self.reference[list(indices)]
        return PairBatch(inputs, targets, reference=reference)


def _of_last_answer(one: Encoded) -> Encoded:
    """The same, of which only the last answer counts."""
    return one._replace(trained=[position >= one.last_start for position in range(len(one.ids))])
