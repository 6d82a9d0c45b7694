"""The section `pretrain` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, positive
from llm.train.config import TrainConfig


@dataclass(frozen=True)
class ShortWindows:
    """Updates on short windows at the start: many small steps learn words and facts first."""

    steps: int
    context: int
    batch_size: int

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "steps", "context", "batch_size")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Windows over the corpus, samples along the way, and how the training computes."""

    context: int  # tokens in a window
    stride: int  # tokens from the start of one window to the next
    short_windows: ShortWindows | None
    sample_prompt: str  # continued greedily along the way
    sample_tokens: int
    sample_after: Literal["evaluation", "epoch"]  # after each, and at the end
    save_optimizer: bool  # also save AdamW's moments, so that training can continue (exercise 5.4)
    compile: bool  # run training passes through torch.compile (compiled.py)
    mode: Literal["exact", "book"]  # book: one stream of random numbers, as in chapter 5 (book_mode.py)

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        yield from positive(self, "context", "stride", "sample_tokens")
        if not self.sample_prompt:
            yield "sample_prompt", "is empty", "write a few words"
        if self.save_optimizer and self.keep == "best":
            what = "is true, but the moments belong to the last weights, and keep is best"
            yield "save_optimizer", what, "keep the last"
        if self.mode == "book" and self.short_windows is not None:
            yield "short_windows", "are given, but mode book has one size of window", "set it to null"
        if self.mode == "book" and self.save_every is not None:
            what = f"{self.save_every}, but in mode book a stopped run cannot resume from a state"
            yield "save_every", what, "set it to null"
        if self.mode == "book" and self.compile:
            yield "compile", "is true, but the book's digits are those of uncompiled steps", "set it to false"
        if self.mode == "book" and (self.keep, self.patience) != ("last", None):
            name = "patience" if self.keep == "last" else "keep"
            what = f"{getattr(self, name)!r}, but mode book first evaluates on other batches: its losses do not compare"
            yield name, what, "set keep to last and patience to null"
