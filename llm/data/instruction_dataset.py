"""Instructions with their answers as next-token targets, collated with the mask (section 7.3)."""

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

    An answer ends with <|endoftext|>; rows of a batch are padded with it to the longest. Padding does not count,
    nor does the prompt where `mask_prompt` is set (exercise 7.2). Rows are cut at `limit` tokens; raises
    UserError, naming the entry of `name`, where that leaves nothing of an answer.
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
                what = f"its prompt alone takes {start} tokens of a context of {limit}: {text!r:.60}"
                where = f"{name}: entry {number + 1}"
                raise UserError(where, what, "shorten it, or take a model with a longer context", DATA)
        self.masked = [start - 1 if mask_prompt else 0 for start in starts]  # targets are one token on

    def __len__(self) -> int:
        """How many entries there are."""
        return len(self.ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row without padding: a batch is as wide as the longest of its own."""
        return [min(len(ids), self.limit) for ids in self.ids]

    @property
    def longest(self) -> int:
        """Tokens of the widest row there can be."""
        return max(self.lengths, default=0)

    def most_targets(self, rows: int) -> int:
        """How many targets count in so many rows at most."""
        counting = (length - masked for length, masked in zip(self.lengths, self.masked, strict=True))
        return sum(sorted(counting)[-rows:])

    def batch(self, indices: Sequence[int]) -> Batch:
        """The entries of these numbers as (B, T) inputs and targets."""
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
