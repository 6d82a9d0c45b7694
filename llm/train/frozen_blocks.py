"""Run the frozen blocks of a classifier only once (not in the book).

Chapter 6 trains the last block and the head. Without dropout, the frozen blocks below give each message the same hidden
states in every epoch. They are computed once and kept in a file that training reads. In the last block, only the
position that the head reads needs a query and the feed-forward layer. The results are those of the whole model.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.data.batches import Batch
from llm.data.spam_dataset import SpamDataset
from llm.model.classifier import Classifier, pool, token_index
from llm.model.gpt import Block
from llm.model.rope import Rotation, rotation
from llm.model.trainable import Position
from llm.runtime.device import RuntimeConfig, autocast

ROWS = 16  # messages per forward pass
STATE_BYTES = 4  # fp32


class UpperBlocks(nn.Module):
    """The part of a classifier above its `frozen` lowest blocks; it shares the parameters of the classifier."""

    def __init__(self, model: Classifier, frozen: int) -> None:
        super().__init__()
        self.h, self.ln_f, self.score = model.transformer.h[frozen:], model.transformer.ln_f, model.score
        self.config, self.position = model.gpt_config, model.position

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Class logits (B, classes) from hidden states (B, T, C); row i has `lengths[i]` real tokens."""
        index, blocks = token_index(self.position, lengths, hidden.shape[1]), list(self.h)
        last = cast(Block, blocks.pop()) if index is not None and blocks else None
        turned = rotation(self.config, torch.arange(hidden.shape[1], device=hidden.device))
        for block in blocks:
            hidden = block(hidden, None, None, turned)
        if index is not None and last:
            return self.score(self.ln_f(last_block_at(last, hidden, index, turned)))  # type: ignore[no-any-return]
        return self.score(pool(self.position, self.ln_f(hidden), lengths))  # type: ignore[no-any-return]


def last_block_at(block: Block, x: Tensor, positions: Tensor, turned: Rotation | None) -> Tensor:
    """The output (B, C) of `block` for hidden states (B, T, C), at one position (B,) of each row.

    Keys and values are computed for all positions; the query and the feed-forward layer only for this one. `turned` is
    the rotation of positions 0 to T - 1.
    """
    B, T, _ = x.shape
    attention = block.attn
    H, K, _ = attention.heads
    rows = torch.arange(B, device=x.device)
    normed = block.ln_1(x)
    weight, bias, queries = attention.c_attn.weight, attention.c_attn.bias, H * attention.head_dim
    q_bias, kv_bias = (None, None) if bias is None else (bias[:queries], bias[queries:])
    q = F.linear(normed[rows, positions], weight[:queries], q_bias).view(B, H, 1, -1)  # (B, H, 1, D)
    kv = F.linear(normed, weight[queries:], kv_bias).view(B, T, 2, K, -1)
    k, v = kv.permute(2, 0, 3, 1, 4)  # (B, K, T, D) each
    at = None if turned is None else (turned[0][positions][:, None, None], turned[1][positions][:, None, None])
    q, k = attention.prepare(q, attention.q_norm, at), attention.prepare(k, attention.k_norm, turned)
    mask = torch.arange(T, device=x.device) <= positions[:, None]  # (B, T)
    y = F.scaled_dot_product_attention(q, k, v, mask[:, None, None], enable_gqa=K < H)  # (B, H, 1, D)
    x = x[rows, positions] + attention.c_proj(y.reshape(B, -1))
    return x + block.mlp(block.ln_2(x))  # type: ignore[no-any-return]


class FrozenStates:
    """A dataset of messages whose inputs are the hidden states (B, T, C) after the frozen blocks."""

    def __init__(self, messages: SpamDataset, states: Tensor, starts: Sequence[int]) -> None:
        self.messages, self.labels = messages, messages.labels
        self.states, self.starts = states, starts  # message i has states[starts[i] : starts[i + 1]]

    def __len__(self) -> int:
        return len(self.messages)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The states of these messages, padded with zeros to the longest."""
        ids = self.messages.batch(indices)
        rows = [self.states[self.starts[i] : self.starts[i + 1]] for i in indices]
        return Batch(nn.utils.rnn.pad_sequence(rows, batch_first=True), ids.targets, ids.lengths)


def kept_lengths(messages: SpamDataset, position: Position, context: int) -> list[int]:
    """The number of states kept of each message; those of padding only if the head reads them."""
    width = messages.width or context
    if position in ("last", "mean_all"):
        return [width] * len(messages)
    return [min(max(1, len(ids)), width) for ids in messages.ids]


@torch.no_grad()
def compute(
    model: Classifier, frozen: int, messages: SpamDataset, runtime: RuntimeConfig, folder: Path
) -> FrozenStates:
    """Run the frozen blocks on all messages and keep the states in an unnamed file in `folder`.

    Attention is causal, so the states of a message do not depend on its padding. Raises OSError if the disk is full.
    """
    device = next(model.parameters()).device
    model.eval()
    lengths = kept_lengths(messages, model.position, model.gpt_config.context_length)
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    with tempfile.NamedTemporaryFile(dir=folder) as file:  # the mapping keeps the data when the name is deleted
        size = starts[-1] * model.gpt_config.n_embd
        if hasattr(os, "posix_fallocate"):  # raises OSError here; a full disk would be a SIGBUS later
            os.posix_fallocate(file.fileno(), 0, STATE_BYTES * size)
        states = torch.from_file(file.name, shared=True, size=size).view(starts[-1], -1)
    by_length = sorted(range(len(messages)), key=lambda i: lengths[i])
    for start in range(0, len(by_length), ROWS):
        chosen = by_length[start : start + ROWS]
        ids = messages.batch(chosen).inputs[:, : max(lengths[i] for i in chosen)].to(device)
        with autocast(runtime):
            hidden = model.transformer.embed(ids)
            turned = rotation(model.gpt_config, torch.arange(ids.shape[1], device=device))
            for block in model.transformer.h[:frozen]:
                hidden = block(hidden, None, None, turned)
        for row, i in zip(hidden.float().cpu(), chosen, strict=True):
            states[starts[i] : starts[i + 1]] = row[: lengths[i]]
    return FrozenStates(messages, states, starts)
