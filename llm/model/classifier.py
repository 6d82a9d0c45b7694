"""A GPT turned into a classifier: a new head, a choice of what to train and of where to read (chapter 6)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from llm.model.gpt import GPT, Transformer
from llm.model.kv_cache import KVCache
from llm.model.meta import on_meta_device

Position = Literal["first", "last", "last_token", "mean", "mean_all", "last_token_and_mean"]
Trainable = Literal["head", "last_block", "last_two_blocks", "all", "lora"]
UPPER_BLOCKS: dict[Trainable, int] = {"head": 0, "last_block": 1, "last_two_blocks": 2}  # that train; others: all of it


class Classifier(nn.Module):
    """Class scores read from the hidden states of a GPT.

    `position`: "last" reads the last, usually padded, place, as the book; "last_token" the last real token;
    "first" the first; "mean" averages the real tokens, "mean_all" all places; "last_token_and_mean" is the mean of
    those two. `pad_to` is the width that messages are padded to (None: the longest of the batch), which the scores
    at "last" and "mean_all" depend on, and all scores where `causal` is false.
    """

    def __init__(
        self, gpt: GPT, n_classes: int, position: Position, pad_to: int | None = None, causal: bool = True
    ) -> None:
        super().__init__()
        self.gpt_config, self.position, self.pad_to, self.causal = gpt.config, position, pad_to, causal
        self.transformer = gpt.transformer
        self.score = nn.Linear(gpt.config.n_embd, n_classes)
        if not causal:
            see_everything(self.transformer)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Class logits (B, classes) of right-padded ids (B, T) whose rows have `lengths` (B,) real tokens."""
        hidden = self.transformer(ids)  # (B, T, C)
        if lengths is None:
            lengths = torch.full((len(ids),), ids.shape[1], device=ids.device)
        return self.score(READ[self.position](hidden, lengths))  # type: ignore[no-any-return]

    def as_gpt(self) -> GPT:
        """The same transformer under a tied language-model head, for the export."""
        with on_meta_device():
            gpt = GPT(replace(self.gpt_config, tie_head=True))
        gpt.transformer = self.transformer
        gpt.lm_head.weight = self.transformer.wte.weight
        return gpt


def place(hidden: Tensor, places: Tensor) -> Tensor:
    """The hidden state (B, C) at one place (B,) of each row of (B, T, C)."""
    return hidden[torch.arange(len(hidden), device=hidden.device), places]


def _read_place(places: Callable[[Tensor, int], Tensor], hidden: Tensor, lengths: Tensor) -> Tensor:
    return place(hidden, places(lengths, hidden.shape[1]))


def mean(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The mean (B, C) of the first `lengths` (B,) hidden states of each row of (B, T, C)."""
    real = (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]).unsqueeze(-1)  # (B, T, 1)
    return (hidden * real).sum(dim=1) / lengths[:, None]


# The one place (B,) that the head reads, by the number of real tokens of each row (B,) and the width of all.
PLACE: dict[Position, Callable[[Tensor, int], Tensor]] = {
    "first": lambda lengths, _width: torch.zeros_like(lengths),
    "last": lambda lengths, width: torch.full_like(lengths, width - 1),
    "last_token": lambda lengths, _width: lengths - 1,
}
# What the head gets to see (B, C), of hidden states (B, T, C) and the number of real tokens of each row (B,).
READ: dict[Position, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: partial(_read_place, places) for name, places in PLACE.items()},
    "mean": mean,
    "mean_all": lambda hidden, _lengths: hidden.mean(dim=1),
    "last_token_and_mean": lambda hidden, lengths: (place(hidden, lengths - 1) + mean(hidden, lengths)) / 2,
}


def see_everything(transformer: Transformer) -> None:
    """Have every place of every block attend to all places: the mask on its way into a block becomes all true."""

    def unmask(_block: nn.Module, inputs: tuple[Tensor, Tensor | None, KVCache | None]) -> tuple[object, ...]:
        x, _mask, cache = inputs
        return x, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device), cache

    for block in transformer.h:
        block.register_forward_pre_hook(unmask)


def freeze(model: Classifier, trainable: Trainable) -> None:
    """Leave trainable only the head; or also the final norm and the last one or two blocks; or everything.

    Nothing with "lora": `add_lora` then brings along what is trained.
    """
    model.requires_grad_(trainable == "all")
    model.score.requires_grad_(trainable != "lora")
    blocks = UPPER_BLOCKS.get(trainable, 0)
    if blocks:
        model.transformer.ln_f.requires_grad_(True)
        for block in list(model.transformer.h)[-blocks:]:
            block.requires_grad_(True)
