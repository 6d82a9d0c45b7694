"""The key-value cache (section 4.7 decodes without one), and attention of a single new token over it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model.config import ModelConfig

READ_ON = 64  # empty slots that a CPU reads sooner than it finds the keys behind them


class KVCache:
    """Keys and values of the tokens seen so far, preallocated for `slots` tokens: (B, H, slots, D) for each layer."""

    def __init__(self, config: ModelConfig, rows: int, slots: int, like: Tensor) -> None:
        shape = (rows, config.n_head, slots, config.n_embd // config.n_head)
        # CPUs multiply a query with fp32 keys faster than with bf16 ones, which they would convert at every step
        dtype = torch.float32 if like.device.type == "cpu" else like.dtype
        self.keys = [like.new_empty(shape, dtype=dtype) for _ in range(config.n_layer)]
        self.values = [like.new_empty(shape) for _ in range(config.n_layer)]
        self.length = 0  # tokens seen; GPT.forward advances it once all layers have appended
        self._places = torch.empty(0, 0)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, H, T, D); return all so far (B, H, S, D), in the types of the cache."""
        keys, values, end = self.keys[layer], self.values[layer], self.length + k.shape[2]
        assert end <= keys.shape[2], "the cache is full"  # a slice past the end would drop tokens silently
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def places(self, tokens: int) -> Tensor:
        """Where the first tokens of every row and head stand among all slots of a layer: (B * H, tokens)."""
        B, H, slots, _ = self.keys[0].shape
        if self._places.shape != (B * H, tokens):  # as it is in the first layer of every step
            first = torch.arange(0, B * H * slots, slots, dtype=torch.int32)
            self._places = first[:, None] + torch.arange(tokens, dtype=torch.int32)
        return self._places

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):  # one at a time: never is the whole cache there twice
                stores[layer] = store[rows]


def attend_one(q: Tensor, cache: KVCache, layer: int, mask: Tensor | None) -> Tensor:
    """`attend` for one query a row (B, H, 1, D), the last that the cache has appended, as CPUs read it fastest.

    The scores are matrices times vectors; the weighted sums of the values are those of an embedding bag, which fetches
    ahead where slots are empty.
    """
    B, H, _, D = q.shape
    keys, values, S = cache.keys[layer], cache.values[layer], cache.length + 1
    if keys.shape[2] - S > READ_ON:
        keys = keys[:, :, :S]
    scores = (keys @ (q.to(keys.dtype) * D**-0.5).transpose(2, 3))[:, :, :S, 0]  # (B, H, S)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, 0], -math.inf)
    weights = torch.softmax(scores, dim=-1).to(values.dtype).flatten(0, 1)
    y = F.embedding_bag(cache.places(S), values.view(-1, D), mode="sum", per_sample_weights=weights)
    return y.view(B, H, 1, D)
