"""Chapter 5: losses on The Verdict, one more epoch, temperature, continuations."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from llm.book import ch02, ch04, ch05
from llm.book.measures.common import Measured, continue_text, measure
from llm.book.measures.sources import Sources
from llm.common import params, profiles
from llm.data.batches import steps_per_epoch
from llm.data.corpus import Pins, write_shards
from llm.data.corpus_dataset import TokenWindows
from llm.runtime.device import RuntimeConfig
from llm.train.book_mode import fit_as_the_book
from llm.train.callbacks import WarmStart
from llm.train.config import TrainConfig
from llm.train.losses import next_token
from llm.weights import model_folder

DIGITS = "configs/book-digits.yaml"  # the settings of section 5.2


@measure
def toy_loss(sources: Sources) -> Measured:
    """Cross-entropy of six tokens, and its perplexity."""
    _, loss = ch05.toy_loss(sources.untrained(256))
    return [loss, math.exp(loss)]


@measure
def toy_probabilities(sources: Sources) -> Measured:
    """Log-probabilities of the six target tokens."""
    return [math.log(p) for p in ch05.toy_loss(sources.untrained(256))[0]]


@measure
def verdict_batches(sources: Sources) -> Measured:
    """Tokens, then batches of 2 x 256 tokens, for training and validation, from the pipeline's windows."""
    with _verdict_windows(sources) as windows:
        batches = [steps_per_epoch(len(windows[split]), 2) for split in ("train", "val")]
    return [*(512 * count for count in batches), *batches]


@measure
def verdict_losses(sources: Sources, model: str) -> Measured:
    """Training and validation loss on The Verdict; `model` is untrained, or a folder in models/."""
    gpt = sources.untrained(256) if model == "untrained" else sources.model(model)
    torch.manual_seed(123)
    cut = int(0.9 * len(sources.verdict))
    losses = []
    for part, training in ((sources.verdict[:cut], True), (sources.verdict[cut:], False)):
        loader = ch02.create_dataloader_v1(part, sources.gpt2, 2, 256, 256, shuffle=training, drop_last=training)
        with torch.no_grad():
            losses.append(ch05.calc_loss_loader(loader, gpt))
    return losses


@measure
def another_epoch(sources: Sources) -> Measured:
    """Losses of one more epoch with the saved model and optimizer of chapter 5 (exercise 5.4)."""
    folder = sources.root / "models/pretrain"
    model = ch04.GPTModel(ch04.GPT_CONFIG_124M | {"context_length": 256})
    model.load_state_dict(model_folder.load_model(folder).state_dict())
    with _verdict_windows(sources) as windows:
        torch.manual_seed(123)
        runtime = RuntimeConfig("fp32", "cpu", threads=torch.get_num_threads(), keep_pages=False, fused_loss=False)
        data = (windows["train"], windows["val"], one_epoch(sources.home), runtime, 123)
        start = WarmStart(folder / "optimizer.safetensors")
        history = fit_as_the_book(model, next_token, *data, [start])
    rows = {row["step"]: row for row in history.rows}
    return [rows[step][column] for step in (0, 5) for column in ("train_loss", "val_loss")]


def one_epoch(project: Path) -> TrainConfig:
    """The settings of section 5.2, for one epoch."""
    settings: dict[str, Any] = {"warmup_from": 0.0, "decay_to": 0.0}  # not used by a constant learning rate
    for changes in profiles.read(project / DIGITS):
        settings |= changes.get("pretrain", {})
    names = {field.name for field in fields(TrainConfig)}
    chosen = {name: value for name, value in settings.items() if name in names}
    return params.parse(TrainConfig, chosen | {"epochs": 1}, DIGITS)


@measure
def draws(_sources: Sources, temperature: str) -> Measured:
    """How often each of nine words comes up in 1,000 draws."""
    return [*ch05.draw_counts(_probabilities(temperature))]


@measure
def pizza(_sources: Sources, temperature: str) -> Measured:
    """How often "pizza" comes up in 1,000 draws (exercise 5.1)."""
    return [ch05.draw_counts(_probabilities(temperature))[ch05.WORDS.index("pizza")]]


@measure
def pizza_probability(_sources: Sources, temperature: str) -> Measured:
    """The exact probability of "pizza" (exercise 5.1)."""
    return [float(_probabilities(temperature)[ch05.WORDS.index("pizza")])]


@measure
def continuation(sources: Sources, model: str, prompt: str, tokens: str, temperature: str, top_k: str) -> Measured:
    """Continuation of a prompt; greedy at temperature 0, otherwise sampled with seed 123."""
    gpt = sources.model(model)
    k = int(top_k) if top_k != "none" else None
    return continue_text(gpt, sources.gpt2, prompt, int(tokens), float(temperature), k)


def _probabilities(temperature: str) -> torch.Tensor:
    return ch05.softmax_with_temperature(torch.tensor(ch05.LOGITS), float(temperature))


@contextmanager
def _verdict_windows(sources: Sources) -> Iterator[dict[str, TokenWindows]]:
    """Chapter 5's windows of 256 tokens, for training and validation."""
    cut = int(0.9 * len(sources.verdict))
    with tempfile.TemporaryDirectory() as folder:
        for split, part in (("train", sources.verdict[:cut]), ("val", sources.verdict[cut:])):
            ids = sources.gpt2.encode_joined([part])
            write_shards(Path(folder), split, ids, 0, Pins(50257, "gpt2"), 10**9)
        yield {split: TokenWindows(Path(folder), split, 256, 256, 50257) for split in ("train", "val")}
