"""Instructions and their answers as batches of next-token targets (section 7.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm.common.errors import DATA, UserError
from llm.data.batches import IGNORED, Batch
from llm.data.instructions import Entry
from llm.data.prompts import HEADERS, PromptForm, format_prompt
from llm.data.tokenizer import Tokenizer


class InstructionDataset:
    """Prompts with their answers, as next-token targets.

    Each answer ends with <|endoftext|>, which also pads the rows of a batch. Targets of padding are IGNORED, and with
    `mask_prompt` those of the prompt too (exercise 7.2). Rows are cut to `limit` tokens. Raises UserError with the
    number of the entry in `name` if a prompt leaves no room for its answer.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        tokenizer: Tokenizer,
        limit: int,
        mask_prompt: bool,
        form: PromptForm = "alpaca",
        name: str = "instructions",
    ) -> None:
        self.pad, self.limit = tokenizer.eot, limit
        prompts = [format_prompt(entry, form) + HEADERS[form] for entry in entries]
        self.ids = tokenizer.encode_all([p + e["output"] for p, e in zip(prompts, entries, strict=True)])
        starts = [len(ids) for ids in tokenizer.encode_all(prompts)]
        for number, start in enumerate(starts):
            if start > limit:
                text = entries[number]["instruction"]
                what = f"the prompt has {start} tokens, more than the context of {limit}: {text!r:.60}"
                where = f"{name}: entry {number + 1}"
                raise UserError(where, what, "shorten it, or use a model with a longer context", DATA)
        self.masked = [start - 1 if mask_prompt else 0 for start in starts]  # targets are shifted by one

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens in each row without padding."""
        return [min(len(ids), self.limit) for ids in self.ids]

    @property
    def longest(self) -> int:
        """Number of tokens in the longest row."""
        return max(self.lengths, default=0)

    def most_targets(self, rows: int) -> int:
        """Return the largest number of targets in `rows` rows that are not IGNORED."""
        counts = (length - masked for length, masked in zip(self.lengths, self.masked, strict=True))
        return sum(sorted(counts)[-rows:])

    def batch(self, indices: Sequence[int]) -> Batch:
        """Return inputs and targets (B, T)."""
        width = max(len(self.ids[i]) for i in indices) + 1
        inputs = torch.full((len(indices), width), self.pad)
        targets = torch.full((len(indices), width), IGNORED)
        for row, i in enumerate(indices):
            ids = torch.tensor([*self.ids[i], self.pad])
            inputs[row, : len(ids)] = ids
            targets[row, : len(ids) - 1] = ids[1:]
            targets[row, : self.masked[i]] = IGNORED
        width = min(width - 1, self.limit)
        return Batch(inputs[:, :width].contiguous(), targets[:, :width].contiguous())
