"""A key-value cache for decoding. CPUs get a faster attention for one new token over it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.model.config import ModelConfig

ONE_TOKEN_DEVICES = ("cpu",)  # devices that use `attend_one`
EMPTY_SLOTS = 64  # up to this many, multiplying with the empty slots too is faster than slicing them off


class KVCache:
    """Keys and values of the tokens so far, allocated for `slots` tokens: (B, K, slots, D) for each layer."""

    def __init__(self, config: ModelConfig, rows: int, slots: int, like: Tensor) -> None:
        shape = (rows, config.kv_heads, slots, config.head_dim)
        on_cpu, device = like.device.type == "cpu", like.device.type
        # A GPU stores what attention computes with, or autocast would convert the whole cache for each token.
        cast = torch.is_autocast_enabled(device) and not on_cpu
        values = torch.get_autocast_dtype(device) if cast else like.dtype
        keys = torch.float32 if on_cpu else values  # CPUs convert bf16 keys to fp32 before each product
        self.keys = [like.new_empty(shape, dtype=keys) for _ in range(config.n_layer)]
        self.values = [like.new_empty(shape, dtype=values) for _ in range(config.n_layer)]
        self.length = 0  # tokens cached; `Transformer.forward` updates it after the last layer
        self._slots = torch.empty(0, 0)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values (B, K, T, D); return all so far (B, K, S, D)."""
        keys, values, end = self.keys[layer], self.values[layer], self.length + k.shape[2]
        assert end <= keys.shape[2], "the cache is full"  # a slice past the end would drop tokens silently
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, attend: Callable[..., Tensor]
    ) -> Tensor:
        """Append new keys and values, then attend to all so far with `attend`: (B, H, T, D) -> (B, H, T, D)."""
        keys, values = self.append(layer, k, v)
        if q.shape[2] == 1 and q.device.type in ONE_TOKEN_DEVICES:
            return attend_one(q, self, layer, mask).to(q.dtype)
        return attend(q.to(keys.dtype), keys, values.to(keys.dtype), mask).to(q.dtype)

    def first_slots(self, tokens: int, shared: int) -> Tensor:
        """Indices (B * K * shared, tokens) of the first tokens of each row and query head, among all slots of a layer.

        `shared` heads of queries have the same keys and values.
        """
        B, K, slots, _ = self.keys[0].shape
        if self._slots.shape != (B * K * shared, tokens):  # computed once a step, in the first layer
            first = torch.arange(0, B * K * slots, slots, dtype=torch.int32).repeat_interleave(shared)
            self._slots = first[:, None] + torch.arange(tokens, dtype=torch.int32)
        return self._slots

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""
        for stores in (self.keys, self.values):
            for layer, store in enumerate(stores):  # one tensor at a time, so memory never holds two caches
                stores[layer] = store[rows]


def attend_one(q: Tensor, cache: KVCache, layer: int, mask: Tensor | None) -> Tensor:
    """Attention of one query per row (B, H, 1, D), whose key and value the cache has just appended.

    The weighted sum of the values is an embedding bag: on CPUs it prefetches, and is faster than a matrix product.
    """
    B, H, _, D = q.shape
    keys, values, S = cache.keys[layer], cache.values[layer], cache.length + 1
    K = keys.shape[1]
    if keys.shape[2] - S > EMPTY_SLOTS:
        keys = keys[:, :, :S]
    queries = (q.to(keys.dtype) * D**-0.5).view(B, K, H // K, D)
    scores = (keys @ queries.transpose(2, 3))[:, :, :S].transpose(2, 3).reshape(B, H, S)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, 0], -math.inf)
    weights = torch.softmax(scores, dim=-1).to(values.dtype).flatten(0, 1)
    y = F.embedding_bag(cache.first_slots(S, H // K), values.view(-1, D), mode="sum", per_sample_weights=weights)
    return y.view(B, H, 1, D)
