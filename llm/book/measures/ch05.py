"""Chapter 5: losses on The Verdict, one more epoch of training, temperature, continuations."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from llm.book import ch02, ch04
from llm.book.measures.common import Measured, continue_text, loss_of, measure
from llm.book.measures.sources import Sources
from llm.common import params, profiles
from llm.data.batches import steps_per_epoch
from llm.data.corpus import Pins, encode_documents, split_documents, write_shards
from llm.data.corpus_dataset import TokenWindows
from llm.model.gpt import GPT
from llm.runtime.device import RuntimeConfig
from llm.train.book_mode import fit_as_the_book
from llm.train.loop import Silent
from llm.train.losses import next_token
from llm.train.optim import TrainConfig
from llm.train.resume import GoesOn
from llm.weights import model_folder

DIGITS = "configs/book-digits.yaml"  # the settings of section 5.2


@measure
def toy_loss(sources: Sources) -> Measured:
    """Cross-entropy of six tokens and its perplexity."""
    _, loss = ch04.toy_loss(sources.untrained(256))
    return [loss, math.exp(loss)]


@measure
def toy_probabilities(sources: Sources) -> Measured:
    """Log probabilities of the six target tokens."""
    return [math.log(p) for p in ch04.toy_loss(sources.untrained(256))[0]]


@measure
def verdict_batches(sources: Sources) -> Measured:
    """The number of tokens in batches of 2 x 256, training and validation, and the number of batches."""
    with _verdict_windows(sources) as windows:
        batches = [steps_per_epoch(len(windows[split]), 2) for split in ("train", "val")]
    return [*(512 * count for count in batches), *batches]


@measure
def verdict_losses(sources: Sources, model: str) -> Measured:
    """Losses on the training and validation windows; `model` is `untrained` or a folder in models/."""
    gpt = sources.untrained(256) if model == "untrained" else sources.model(model)
    torch.manual_seed(123)
    cut = int(0.9 * len(sources.verdict))
    losses = []
    for part, training in ((sources.verdict[:cut], True), (sources.verdict[cut:], False)):
        ids = sources.gpt2.encode(part)
        losses.append(_mean_loss(gpt, ch02.window_loader(ids, 2, 256, 256, shuffle=training, drop_last=training)))
    return losses


@measure
def another_epoch(sources: Sources) -> Measured:
    """Losses of one more epoch, from the saved model and optimizer of chapter 5 (exercise 5.4)."""
    folder = sources.root / "models/pretrain"
    model = ch04.book_gpt("124M", 256)
    model.load_state_dict(model_folder.load_model(folder).state_dict())
    with _verdict_windows(sources) as windows:
        torch.manual_seed(123)
        runtime = RuntimeConfig("fp32", "cpu", threads=torch.get_num_threads(), keep_pages=False, fused_loss=False)
        data = (windows["train"], windows["val"], one_epoch(sources.home), runtime, 123, Silent())
        start = GoesOn(folder / "optimizer.safetensors")
        history = fit_as_the_book(model, next_token, *data, states=start)
    rows = {row["step"]: row for row in history.rows}
    return [rows[step][column] for step in (0, 5) for column in ("train_loss", "val_loss")]


def one_epoch(project: Path) -> TrainConfig:
    """The settings of chapter 5's training, for one epoch."""
    settings: dict[str, Any] = {"warmup_from": 0.0, "decay_to": 0.0}  # not used by a constant learning rate
    for changes in profiles.read(project / DIGITS):
        settings |= changes.get("pretrain", {})
    names = {field.name for field in fields(TrainConfig)}
    chosen = {name: value for name, value in settings.items() if name in names}
    return params.parse(TrainConfig, chosen | {"epochs": 1}, DIGITS)


@measure
def draws(_sources: Sources, temperature: str) -> Measured:
    """How often each of nine words is drawn in 1000 draws."""
    return [*ch04.draw_counts(float(temperature))]


@measure
def pizza(_sources: Sources, temperature: str) -> Measured:
    """How often "pizza" is drawn in 1000 draws (exercise 5.1)."""
    return [ch04.draw_counts(float(temperature))[ch04.WORDS.index("pizza")]]


@measure
def pizza_probability(_sources: Sources, temperature: str) -> Measured:
    """The exact probability of "pizza" (exercise 5.1)."""
    probabilities = ch04.with_temperature(torch.tensor(ch04.LOGITS), float(temperature))
    return [float(probabilities[ch04.WORDS.index("pizza")])]


@measure
def continuation(sources: Sources, model: str, prompt: str, tokens: str, temperature: str, top_k: str) -> Measured:
    """The continuation of a prompt: greedy at temperature 0, else sampled with seed 123."""
    gpt = sources.model(model)
    k = int(top_k) if top_k != "none" else None
    return continue_text(gpt, sources.gpt2, prompt, int(tokens), float(temperature), k)


@torch.no_grad()
def _mean_loss(model: GPT, loader: DataLoader[tuple[Tensor, Tensor]]) -> float:
    losses = [float(loss_of(model, x, y)) for x, y in loader]
    return sum(losses) / len(losses)


@contextmanager
def _verdict_windows(sources: Sources) -> Iterator[dict[str, TokenWindows]]:
    """The windows of 256 tokens that chapter 5 trains and validates on."""
    (train,), (val,) = split_documents([sources.verdict], 0.9)
    with tempfile.TemporaryDirectory() as folder:
        for split, part in (("train", train), ("val", val)):
            ids = encode_documents([part], sources.gpt2)
            write_shards(Path(folder), split, ids, 0, Pins(50257, "gpt2"), 10**9)
        yield {split: TokenWindows(Path(folder), split, 256, 256, 50257) for split in ("train", "val")}
