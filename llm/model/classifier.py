"""A GPT as a classifier: a new head, and a choice of the layers to train (chapter 6)."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT, Block
from llm.model.meta import on_meta_device
from llm.model.trainable import UPPER_BLOCKS, Position, Trainable


class Classifier(nn.Module):
    """Class logits from the hidden states of a GPT.

    `position` says which hidden states the head reads:

    - "last": the last one, usually of a padding token, as in the book
    - "last_token": the one of the last real token
    - "first": the first one
    - "mean": the mean over the real tokens
    - "mean_all": the mean over all tokens, padding included
    - "last_token_and_mean": the mean of "last_token" and "mean"

    `pad_to` is the width to pad messages to (None: the longest of the batch). The logits depend on it for "last" and
    "mean_all", and always if `causal` is False.
    """

    def __init__(
        self, gpt: GPT, n_classes: int, position: Position, pad_to: int | None = None, causal: bool = True
    ) -> None:
        super().__init__()
        self.gpt_config, self.position, self.pad_to, self.causal = gpt.config, position, pad_to, causal
        self.transformer = gpt.transformer
        for block in gpt.transformer.h:
            cast(Block, block).attn.causal = causal
        # the published classifiers of families without biases have none here either
        self.score = nn.Linear(gpt.config.n_embd, n_classes, bias=gpt.config.parts.bias)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Class logits (B, classes) of right-padded ids (B, T); `lengths` (B,) are the real tokens of each row."""
        hidden = self.transformer(ids)  # (B, T, C)
        if lengths is None:
            lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
        return self.score(pool(self.position, hidden, lengths))  # type: ignore[no-any-return]

    def as_gpt(self) -> GPT:
        """A GPT that shares the transformer, with a tied head, for saving."""
        with on_meta_device():
            gpt = GPT(replace(self.gpt_config, tie_head=True))
        gpt.transformer = self.transformer
        gpt.lm_head.weight = self.transformer.wte.weight
        return gpt


def token_index(position: Position, lengths: Tensor, width: int) -> Tensor | None:
    """The index (B,) of the token whose hidden state the head reads; None if it reads more than one."""
    if position == "first":
        return torch.zeros_like(lengths)
    if position == "last":
        return torch.full_like(lengths, width - 1)
    return lengths - 1 if position == "last_token" else None


def pool(position: Position, hidden: Tensor, lengths: Tensor) -> Tensor:
    """The input of the head (B, C) from hidden states (B, T, C) of rows with `lengths` (B,) real tokens."""
    rows, tokens = (torch.arange(size, device=hidden.device) for size in hidden.shape[:2])
    index = token_index(position, lengths, len(tokens))
    if index is not None:
        return hidden[rows, index]
    if position == "mean_all":
        return hidden.mean(dim=1)
    real = (tokens < lengths[:, None]).unsqueeze(-1)  # (B, T, 1)
    mean = (hidden * real).sum(dim=1) / lengths[:, None]
    return mean if position == "mean" else (hidden[rows, lengths - 1] + mean) / 2


def freeze(model: Classifier, trainable: Trainable) -> None:
    """Make only the chosen part trainable: the head, also the final norm and the last one or two blocks, or all.

    With "lora" nothing is trainable until `add_lora` adds its parameters.
    """
    model.requires_grad_(trainable == "all")
    model.score.requires_grad_(trainable != "lora")
    blocks = UPPER_BLOCKS.get(trainable, 0)
    if blocks:
        model.transformer.ln_f.requires_grad_(True)
        for block in list(model.transformer.h)[-blocks:]:
            block.requires_grad_(True)
