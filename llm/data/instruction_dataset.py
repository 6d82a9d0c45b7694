"""Instructions and their answers as batches of next-token targets (section 7.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llm.common.errors import DATA, UserError, raise_first
from llm.data.batches import IGNORED, Batch
from llm.data.instruction_lengths import Encoded, answer_tokens, encode_entry
from llm.data.instruction_shapes import Entry
from llm.data.prompts import Frame, make_frame, single
from llm.data.tokenizer import Tokenizer


class InstructionDataset:
    """Framed entries as next-token targets.

    Each answer ends with the token that the frame puts there; the last one of a row is only a target. The end of text
    pads the rows of a batch. Targets of padding are IGNORED, and with `mask_prompt` those outside the answers too
    (exercise 7.2). Rows are cut to `limit` tokens. Without a `frame`, it is Alpaca's. Raises UserError with the numbers
    of all entries in `name` that the frame refuses, or whose prompt leaves no room for an answer.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        tokenizer: Tokenizer,
        limit: int,
        mask_prompt: bool,
        frame: Frame | None = None,
        name: str = "instructions",
    ) -> None:
        self.pad, self.limit = tokenizer.eot, limit
        frame = frame or make_frame("alpaca", tokenizer)
        encoded: list[Encoded] = []
        problems: list[UserError] = []
        for number, entry in enumerate(entries, start=1):
            try:
                encoded.append(one := encode_entry(entry, frame, tokenizer))
            except UserError as error:
                problems.append(UserError(f"{name}: entry {number}", error.what, error.fix, DATA))
                continue
            if not answer_tokens(one, limit):
                what = f"the prompt has {one.start} tokens, more than the context of {limit}"
                what += f": {single(entry)['instruction']!r:.60}"
                fix = "shorten it, or use a model with a longer context"
                problems.append(UserError(f"{name}: entry {number}", what, fix, DATA))
        raise_first(problems, name)
        self.rows = encoded if mask_prompt else [one._replace(trained=[True] * len(one.ids)) for one in encoded]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens in each row without padding."""
        return [min(one.length, self.limit) for one in self.rows]

    @property
    def longest(self) -> int:
        return max(self.lengths, default=0)

    @property
    def n_cut(self) -> int:
        """Number of entries that are cut to `limit` tokens, and so lack the end of their answer."""
        return sum(one.length > self.limit for one in self.rows)

    def most_targets(self, rows: int) -> int:
        """Return the largest number of targets in `rows` rows that are not IGNORED."""
        return sum(sorted(answer_tokens(one, self.limit) for one in self.rows)[-rows:])

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return inputs and targets (B, T)."""
        inputs, targets = next_tokens([self.rows[i] for i in indices], self.pad)
        return Batch(inputs[:, : self.limit].contiguous(), targets[:, : self.limit].contiguous())


def next_tokens(rows: Sequence[Encoded], pad: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets (B, T) of rows, padded on the right. Targets that are not trained are IGNORED."""
    inputs = torch.full((len(rows), max(one.length for one in rows)), pad)
    targets = torch.full_like(inputs, IGNORED)
    for row, one in enumerate(rows):
        ids, trained = torch.tensor(one.ids), torch.tensor(one.trained)
        inputs[row, : one.length] = ids[:-1]
        targets[row, : one.length] = torch.where(trained[1:], ids[1:], IGNORED)
    return inputs, targets
