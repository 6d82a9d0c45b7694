"""A batch of sequences that join and leave between decoding steps, over one key-value cache.

Each sequence has a row of the cache and starts at its first slot. A matrix product adds in another order if it has few
rows or a width that is no multiple of the vector registers. So a step always computes ROWS, 2 ROWS, ... rows, unless
all weights are packed in fp32, and attends to SLOTS, 2 SLOTS, ... slots. Prompts are padded to PROMPT, 2 PROMPT, ...
tokens. Attention is computed for the rows of sequences only. With that, on the CPUs that were measured, the logits of a
sequence are the same bits whatever else is in the batch, and however large the cache is.
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
from llm.runtime import machine

ROWS = 8  # a step computes a multiple of this many rows; any number if all weights are packed in fp32
SLOTS = 64  # it attends to a multiple of this many slots
LARGE = 64 << 20  # bytes; so much freed memory goes back to the system
PROMPT = 32  # prompts are padded to a multiple of this many tokens; those of one width are computed together


class RaggedCache(KVCache):
    """A key-value cache that grows. Its rows have lengths of their own: row i holds `lengths[i]` tokens from slot 0 on.

    It has room for 1, 2, 4, ... rows of SLOTS, 2 SLOTS, 4 SLOTS, ... tokens, but no more than the rows may come to
    hold. So it is copied rarely, and its memory follows the tokens that are there.
    """

    def __init__(self, config: ModelConfig, rows: int, like: Tensor) -> None:
        super().__init__(config, 0, 0, like)
        self.lengths, self.most = list[int](), list[int]()  # tokens of each row: now, and in the end
        self._rows, self._heads = rows, config.n_head
        self._slot = sum(store.shape[1] * store.shape[3] * store.element_size() for store in self._stores)  # bytes
        self._at = self._seen = self._bags = torch.empty(0)

    @property
    def _stores(self) -> list[Tensor]:
        return [*self.keys, *self.values]

    @property
    def nbytes(self) -> int:
        """The memory that it takes now. All of it is written, so that no slot holds NaN: a masked one has weight 0."""
        return sum(store.nbytes for store in self._stores)

    def most_bytes(self, *others: int) -> int:
        """The memory that it may need until the rows end, with more rows of up to so many tokens.

        That is the cache, and one tensor while it is copied.
        """
        most = [*self.most, *others]
        cache = self._rows_for(len(most)) * up(max(most, default=0), SLOTS) * self._slot
        return cache + cache // len(self._stores)

    def join(self, lengths: Sequence[int], most: Sequence[int]) -> None:
        """Add rows of so many tokens, which may come to hold `most` tokens."""
        self.lengths += lengths
        self.most += most
        self._fit()

    def leave(self, row: int) -> None:
        """Drop a row. The last row takes its place."""
        length, most = self.lengths.pop(), self.most.pop()
        if row < len(self.lengths):
            for store in self._stores:
                store[row, :, :length] = store[len(self.lengths), :, :length]
            self.lengths[row], self.most[row] = length, most
        self._fit()

    def start_step(self, rows: int) -> Tensor:
        """Prepare a step of one token for each row; returns the `left_padding` (rows,) of `rows` computed rows.

        The model counts positions from `length`, so a shorter row is said to be padded.
        """
        self._fit()
        device = self.keys[0].device
        self._at, self.length = torch.tensor(self.lengths, device=device), max(self.lengths)
        slots = torch.arange(up(self.length + 1, SLOTS), device=device)
        self._seen = slots <= self._at[:, None]  # (rows, S)
        K, shared = self.keys[0].shape[1], self._heads // self.keys[0].shape[1]
        first = torch.arange(len(self.lengths) * K, device=device) * self.keys[0].shape[2]
        self._bags = (first.repeat_interleave(shared)[:, None] + slots).to(torch.int32)  # (rows * H, S)
        return self.length - F.pad(self._at, (0, rows - len(self.lengths)))

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, attend: Callable[..., Tensor]
    ) -> Tensor:
        """Store the key and value of one new token for each row, and attend to the row: (B, H, 1, D) -> (B, H, 1, D).

        Of the B computed rows, the last may stand for none: they get zeros. `mask` and `attend` are not used, as the
        rows are ragged.
        """
        (B, H, _, D), K, (n, S) = q.shape, k.shape[1], self._seen.shape
        rows = torch.arange(n, device=q.device)
        self.keys[layer][rows, :, self._at] = k[:n, :, 0].to(self.keys[layer].dtype)
        self.values[layer][rows, :, self._at] = v[:n, :, 0].to(self.values[layer].dtype)
        keys, values = self.keys[layer][:n, :, :S], self.values[layer]
        queries = (q[:n].to(keys.dtype) * D**-0.5).reshape(n, K, H // K, D)  # H / K heads share a key
        scores = (keys @ queries.transpose(2, 3)).transpose(2, 3)  # (n, K, H / K, S)
        scores = scores.masked_fill(~self._seen[:, None, None], -math.inf)
        weights = torch.softmax(scores, dim=-1).to(values.dtype).reshape(n * H, S)
        y = F.embedding_bag(self._bags, values.view(-1, D), mode="sum", per_sample_weights=weights).to(q.dtype)
        return F.pad(y, (0, 0, 0, (B - n) * H)).view(B, H, 1, D)

    def _rows_for(self, rows: int) -> int:
        return min(doubled(rows, 1), self._rows)

    def _fit(self) -> None:
        """Have room for one more token in each row. It shrinks if a quarter of its memory would do."""
        longest = min(doubled(max(self.lengths, default=-1) + 1, SLOTS), up(max(self.most, default=0), SLOTS))
        rows, (B, K, S, D) = self._rows_for(len(self.lengths)), self.keys[0].shape
        if rows <= B and longest <= S and (4 * rows * longest > B * S or not B * S):
            return
        kept, length = len(self.lengths), min(S, max(self.lengths, default=0))
        before = self.nbytes
        for stores in (self.keys, self.values):
            for layer, old in enumerate(stores):  # one at a time, so that memory never holds two caches
                stores[layer] = old.new_zeros(rows, K, longest, D)
                stores[layer][: min(B, kept), :, :length] = old[:kept, :, :length]
                del old
        if before - self.nbytes > LARGE:
            machine.give_back()


class PromptCache(KVCache):
    """Stands for an empty cache, and stores the keys and values of prompts in the last rows of `cache`."""

    def __init__(self, cache: RaggedCache, lengths: Sequence[int]) -> None:
        self.length, self._cache, self._lengths = 0, cache, lengths

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, attend: Callable[..., Tensor]
    ) -> Tensor:
        """The attention of the model over the prompts, which are padded on the right: (B, H, T, D) -> (B, H, T, D)."""
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        k, v = k.to(keys.dtype).contiguous(), v.to(values.dtype).contiguous()
        first = len(self._cache.lengths) - len(self._lengths)
        for at, length in enumerate(self._lengths):
            keys[first + at, :, :length] = k[at, :, :length]
            values[first + at, :, :length] = v[at, :, :length]
        return attend(q.to(k.dtype), k, v.to(k.dtype), mask).to(q.dtype)


class Batch:
    """The sequences that a model continues, in rows 0 to `size` - 1."""

    def __init__(self, model: GPT, rows: int) -> None:
        self.model, self.rows = model, rows
        self.cache = RaggedCache(model.config, rows, model.transformer.wte.weight)
        self.unit = 1 if packed_weights.adds_in_one_order(model) else ROWS  # a step computes a multiple of so many rows

    @property
    def size(self) -> int:
        return len(self.cache.lengths)

    def add(self, prompts: Sequence[Sequence[int]], most: Sequence[int] | None = None) -> Tensor:
        """Compute prompts of one `width` and give them the next rows; returns the logits (B, V) of the next tokens.

        They are padded on the right: a token does not attend to later ones. `most` says how many tokens each may come
        to have, the whole context by default.
        """
        assert self.size + len(prompts) <= self.rows, "the batch is full"
        lengths, width = [len(prompt) for prompt in prompts], self.width(prompts[0])
        self.cache.join(lengths, most or [self.model.config.context_length] * len(prompts))
        ids = [[*prompt, *[0] * (width - len(prompt))] for prompt in prompts]
        return self._logits(ids, PromptCache(self.cache, lengths), None, [length - 1 for length in lengths])

    def width(self, prompt: Sequence[int]) -> int:
        """The number of tokens that a prompt is padded to."""
        return min(up(len(prompt), PROMPT), self.model.config.context_length)

    def remove(self, row: int) -> None:
        self.cache.leave(row)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to each row; returns the logits (size, V) of the tokens after them."""
        rows = up(self.size, self.unit)
        padding = self.cache.start_step(rows)
        ids = [[token] for token in [*tokens, *[0] * (rows - self.size)]]
        logits = self._logits(ids, self.cache, padding, [0] * rows)
        self.cache.lengths = [length + 1 for length in self.cache.lengths]
        return logits[: self.size]

    @torch.inference_mode()
    def _logits(
        self, ids: Sequence[Sequence[int]], cache: KVCache, padding: Tensor | None, ends: Sequence[int]
    ) -> Tensor:
        """Logits (B, V) at the position `ends` of each row."""
        inputs = torch.tensor(ids, device=self.model.transformer.wte.weight.device)
        hidden = self.model.transformer(inputs, cache, padding)
        last = hidden[torch.arange(len(ids)), torch.tensor(ends)]
        filled = F.pad(last, (0, 0, 0, up(len(ids), self.unit) - len(ids)))  # as the blocks
        return self.model.lm_head(filled)[: len(ids)]  # type: ignore[no-any-return]


def up(number: int, unit: int) -> int:
    """The smallest multiple of `unit` that is at least `number`."""
    return -(-number // unit) * unit


def doubled(number: int, unit: int) -> int:
    """The smallest of 0, `unit`, 2 `unit`, 4 `unit`, ... that is at least `number`."""
    return unit << (-(-number // unit) - 1).bit_length() if number else 0
