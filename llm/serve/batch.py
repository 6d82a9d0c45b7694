"""A batch of sequences that join and leave between decoding steps, over one key-value cache.

Each sequence has a row of the cache and starts at its first slot. A matrix product adds in another order if it has few
rows or a width that is no multiple of the vector registers. So a step always computes ROWS, 2 ROWS, ... rows, unless
all weights are packed in fp32, and attends to SLOTS, 2 SLOTS, ... slots. Prompts are padded to PROMPT, 2 PROMPT, ...
tokens. With that, on the CPUs that were measured, the logits of a sequence are the same bits whatever else is in the
batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model import packed_weights
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache

ROWS = 8  # a step computes a multiple of this many rows; any number if all weights are packed in fp32
SLOTS = 64  # it attends to a multiple of this many slots
PROMPT = 32  # prompts are padded to a multiple of this many tokens; those of one width are computed together


class RaggedCache(KVCache):
    """A key-value cache whose rows have lengths of their own: row i holds `lengths[i]` tokens from slot 0 on."""

    def __init__(self, config: ModelConfig, rows: int, like: Tensor) -> None:
        rows, slots = up(rows, ROWS), up(config.context_length, SLOTS)
        super().__init__(config, rows, slots, like)
        self.lengths = [0] * rows
        self._touched = 0  # rows that hold finite numbers in all slots; the memory of the others is not used yet
        self._at = self._seen = self._bags = torch.empty(0)

    def write(self, row: int, other: KVCache, source: int, length: int) -> None:
        """Make `row` the first `length` tokens of row `source` of another cache."""
        self._touch(row + 1)
        for mine, store in zip([*self.keys, *self.values], [*other.keys, *other.values], strict=True):
            mine[row, :, :length] = store[source, :, :length]
        self.lengths[row] = length

    def move(self, source: int, target: int) -> None:
        """Copy row `source` over row `target`."""
        length = self.lengths[source]
        for store in (*self.keys, *self.values):
            store[target, :, :length] = store[source, :, :length]
        self.lengths[target] = length

    def start_step(self, rows: int) -> Tensor:
        """Prepare a step of one token for each of the first `rows` rows; returns their `left_padding` (rows,).

        The model counts positions from `length`, so a shorter row is said to be padded.
        """
        self._touch(rows)
        device = self.keys[0].device
        self._at = torch.tensor(self.lengths[:rows], device=device)
        self.length = max(self.lengths[:rows])
        slots = torch.arange(up(self.length + 1, SLOTS), device=device)
        self._seen = slots <= self._at[:, None]  # (rows, S)
        self._bags = slots.to(torch.int32)
        return self.length - self._at

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, attend: Callable[..., Tensor]
    ) -> Tensor:
        """Store the key and value of one new token for each row, and attend to the row: (B, H, 1, D) -> (B, H, 1, D).

        `mask` and `attend` are not used: the rows are ragged.
        """
        (B, H, _, D), K, S = q.shape, k.shape[1], len(self._bags)
        rows = torch.arange(B, device=q.device)
        self.keys[layer][rows, :, self._at] = k[:, :, 0].to(self.keys[layer].dtype)
        self.values[layer][rows, :, self._at] = v[:, :, 0].to(self.values[layer].dtype)
        keys, values = self.keys[layer][:B, :, :S], self.values[layer]
        queries = (q.to(keys.dtype) * D**-0.5).reshape(B, K, H // K, D)  # H / K heads share a key
        scores = (keys @ queries.transpose(2, 3)).transpose(2, 3)  # (B, K, H / K, S)
        scores = scores.masked_fill(~self._seen[:, None, None], -math.inf)
        weights = torch.softmax(scores, dim=-1).to(values.dtype).reshape(B * H, S)
        first = torch.arange(0, B * K * values.shape[2], values.shape[2], dtype=torch.int32, device=q.device)
        bags = first.repeat_interleave(H // K)[:, None] + self._bags
        y = F.embedding_bag(bags, values.view(-1, D), mode="sum", per_sample_weights=weights)
        return y.view(B, H, 1, D).to(q.dtype)

    def _touch(self, rows: int) -> None:
        """A masked slot has weight 0, but 0 times NaN is NaN."""
        for store in (*self.keys, *self.values):
            store[self._touched : rows] = 0
        self._touched = max(self._touched, rows)


class Batch:
    """The sequences that a model continues, in rows 0 to `size` - 1."""

    def __init__(self, model: GPT, rows: int) -> None:
        self.model, self.rows, self.size = model, rows, 0
        self.cache = RaggedCache(model.config, rows, model.transformer.wte.weight)
        self.unit = unit_of(model)

    def add(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Compute prompts of one `width` and give them the next rows; returns the logits (B, V) of the next tokens.

        They are padded on the right: a token does not attend to later ones.
        """
        assert self.size + len(prompts) <= self.rows, "the batch is full"
        weight, ends = self.model.transformer.wte.weight, [len(prompt) - 1 for prompt in prompts]
        width = self.width(prompts[0])
        ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=weight.device)
        computed = KVCache(self.model.config, len(prompts), width, weight)
        logits = self._logits(ids, computed, None, ends)
        for at, prompt in enumerate(prompts):
            self.cache.write(self.size, computed, at, len(prompt))
            self.size += 1
        return logits

    def width(self, prompt: Sequence[int]) -> int:
        """The number of tokens that a prompt is padded to."""
        return min(up(len(prompt), PROMPT), self.model.config.context_length)

    def remove(self, row: int) -> None:
        """Drop a row. The last row takes its place."""
        self.size -= 1
        if row < self.size:
            self.cache.move(self.size, row)
        self.cache.lengths[self.size] = 0

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row; returns the logits (size, V) of the tokens after them."""
        rows = up(self.size, self.unit)
        padding = self.cache.start_step(rows)
        ids = torch.tensor([*tokens, *[0] * (rows - self.size)], device=padding.device)
        logits = self._logits(ids[:, None], self.cache, padding, [0] * rows)
        for row in range(self.size):
            self.cache.lengths[row] += 1
        return logits[: self.size]

    @torch.inference_mode()
    def _logits(self, ids: Tensor, cache: KVCache, padding: Tensor | None, ends: Sequence[int]) -> Tensor:
        """Logits (B, V) at the position `ends` of each row."""
        hidden = self.model.transformer(ids, cache, padding)
        last = hidden[torch.arange(len(ids)), torch.tensor(ends)]
        filled = F.pad(last, (0, 0, 0, up(len(ids), self.unit) - len(ids)))  # as the blocks
        return self.model.lm_head(filled)[: len(ids)]  # type: ignore[no-any-return]


def unit_of(model: GPT) -> int:
    """A step computes a multiple of this many rows."""
    return 1 if packed_weights.adds_in_one_order(model) else ROWS


def up(number: int, unit: int) -> int:
    """The smallest multiple of `unit` that is at least `number`."""
    return -(-number // unit) * unit
