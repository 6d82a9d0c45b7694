"""Frozen blocks computed once: below the first block that trains, a message has the same states in every epoch.

Chapter 6 trains the last block and the head. With dropout off, the blocks under it give each message the same hidden
states every time, so they are computed once and kept in a file; training reads them there. And in the last block, only
the place that the head reads needs a query and the feed-forward part. The mathematics is that of the whole model.
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
from llm.model.classifier import Classifier, Position, pool, token_index
from llm.model.gpt import Block
from llm.runtime.device import RuntimeConfig, autocast

ROWS = 16  # messages computed at once
STATE_BYTES = 4  # of each number


class UpperBlocks(nn.Module):
    """What is left of a classifier above its frozen blocks; its parameters are the classifier's own."""

    def __init__(self, model: Classifier, frozen: int) -> None:
        super().__init__()
        self.h, self.ln_f, self.score = model.transformer.h[frozen:], model.transformer.ln_f, model.score
        self.position = model.position

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Class logits (B, classes) of the states (B, T, C) below, in rows with `lengths` (B,) real tokens."""
        index = token_index(self.position, lengths, hidden.shape[1])
        if index is None or not self.h:
            for block in self.h:
                hidden = block(hidden, None, None)
            return self.score(pool(self.position, self.ln_f(hidden), lengths))  # type: ignore[no-any-return]
        *below, last = (cast(Block, block) for block in self.h)
        for block in below:
            hidden = block(hidden, None, None)
        return self.score(self.ln_f(last_block_at(last, hidden, index)))  # type: ignore[no-any-return]


def last_block_at(block: Block, x: Tensor, places: Tensor) -> Tensor:
    """What `block` makes of the states (B, T, C) at one place (B,) of each row: (B, C).

    All places give keys and values; only this one needs a query, and the feed-forward part.
    """
    B, T, C = x.shape
    attention = block.attn
    rows = torch.arange(B, device=x.device)
    normed = block.ln_1(x)
    weight, bias = attention.c_attn.weight, attention.c_attn.bias
    q_bias, kv_bias = (None, None) if bias is None else (bias[:C], bias[C:])
    q = F.linear(normed[rows, places], weight[:C], q_bias).view(B, attention.n_head, 1, -1)  # (B, H, 1, D)
    kv = F.linear(normed, weight[C:], kv_bias).view(B, T, 2, attention.n_head, -1)
    k, v = kv.permute(2, 0, 3, 1, 4)  # (B, H, T, D) each
    seen = torch.arange(T, device=x.device) <= places[:, None]  # (B, T)
    y = F.scaled_dot_product_attention(q, k, v, seen[:, None, None])  # (B, H, 1, D)
    x = x[rows, places] + attention.c_proj(y.reshape(B, C))
    return x + block.mlp(block.ln_2(x))  # type: ignore[no-any-return]


class FrozenStates:
    """A dataset whose inputs are the hidden states (B, T, C) of its messages above the frozen blocks."""

    def __init__(self, messages: SpamDataset, states: Tensor, starts: Sequence[int]) -> None:
        self.messages, self.labels = messages, messages.labels
        self.states, self.starts = states, starts  # states[starts[i] : starts[i + 1]] are those of message i

    def __len__(self) -> int:
        """How many messages there are."""
        return len(self.messages)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The states of these messages, with zeros after the last token of the shorter ones."""
        ids = self.messages.batch(indices)
        rows = [self.states[self.starts[i] : self.starts[i + 1]] for i in indices]
        return Batch(nn.utils.rnn.pad_sequence(rows, batch_first=True), ids.targets, ids.lengths)


def kept_lengths(messages: SpamDataset, position: Position, context: int) -> list[int]:
    """How many states of each message are kept: those of padding only where the head reads them."""
    width = messages.width or context
    if position in ("last", "mean_all"):
        return [width] * len(messages)
    return [min(max(1, len(ids)), width) for ids in messages.ids]


def _take_room(file: int, size: int) -> None:
    """Have the disk set the bytes aside, or raise OSError: a page of a mapped file without room is a SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)


@torch.no_grad()
def compute(
    model: Classifier, frozen: int, messages: SpamDataset, runtime: RuntimeConfig, folder: Path
) -> FrozenStates:
    """Run the frozen blocks over all messages; their states lie in a file of `folder` that goes with the process.

    Attention is causal, so a message's states do not depend on what it is padded to. Raises OSError where the disk
    has no room for them.
    """
    device = next(model.parameters()).device
    model.eval()
    lengths = kept_lengths(messages, model.position, model.gpt_config.context_length)
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    with tempfile.NamedTemporaryFile(dir=folder) as file:  # its pages stay as long as the tensor lives
        size = starts[-1] * model.gpt_config.n_embd
        _take_room(file.fileno(), STATE_BYTES * size)
        states = torch.from_file(file.name, shared=True, size=size).view(starts[-1], -1)
    by_length = sorted(range(len(messages)), key=lambda i: lengths[i])
    for start in range(0, len(by_length), ROWS):
        chosen = by_length[start : start + ROWS]
        ids = messages.batch(chosen).inputs[:, : max(lengths[i] for i in chosen)].to(device)
        with autocast(runtime):
            hidden = model.transformer.embed(ids)
            for block in model.transformer.h[:frozen]:
                hidden = block(hidden, None, None)
        for row, i in zip(hidden.float().cpu(), chosen, strict=True):
            states[starts[i] : starts[i + 1]] = row[: lengths[i]]
    return FrozenStates(messages, states, starts)
