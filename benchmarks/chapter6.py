"""Chapter 6 as a benchmark: fine-tune a 124M classifier (random weights, last block, 5 epochs) and measure accuracy.

The messages are the book's, from the folder LLM_MIRROR. A rate is all training messages over the whole time.
"""

from __future__ import annotations

import os
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llm.book.measures.sources import SPAM
from llm.common.params import load, parse
from llm.data import class_splits, spam
from llm.data.batches import SequentialBatches, ShuffledBatches, steps_per_epoch
from llm.data.class_splits import SPLITS
from llm.data.spam_dataset import SpamDataset
from llm.data.tokenizer import Tokenizer
from llm.evaluate import accuracy
from llm.model import classifier
from llm.model.classifier import Classifier
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train import frozen_blocks, losses
from llm.train.loop import evaluation_batches, fit
from llm.train.task import Task
from stages.sections.finetune_spam import FinetuneSpamConfig

EPOCHS, BATCH, WIDTH = 5, 8, 120
ROOT = Path(__file__).parents[1]


def mirror() -> Path:
    """The folder with the book's data and GPT-2's vocabulary."""
    if "LLM_MIRROR" not in os.environ:
        raise SystemExit("LLM_MIRROR is not set | fix: set it to the folder of the book's files (docs/data.md)")
    return Path(os.environ["LLM_MIRROR"])


def write_vocabulary(folder: Path) -> None:
    """Copy GPT-2's two vocabulary files, under the names that our tokenizer reads."""
    for theirs, ours in (("vocab.bpe", "merges.txt"), ("encoder.json", "vocab.json")):
        (folder / ours).write_bytes((mirror() / theirs).read_bytes())


def data(folder: Path) -> dict[str, SpamDataset]:
    """The book's three splits, padded to the longest training message."""
    write_vocabulary(folder)
    with zipfile.ZipFile(mirror() / "sms+spam+collection.zip") as archive:
        (folder / "messages").write_bytes(archive.read("SMSSpamCollection"))
    messages = spam.read_messages(folder / "messages", SPAM)
    parts = spam.balanced_splits(messages, SPAM, 123)
    tokenizer, found = Tokenizer.load(folder), {}
    for split in SPLITS:
        class_splits.write_split(parts[split], messages.labels, folder / f"{split}.csv")
        found[split] = SpamDataset(*class_splits.read_split(folder / f"{split}.csv", 2), tokenizer, 1024)
        found[split].width = WIDTH
    return found


def config(frozen_prefix: bool) -> FinetuneSpamConfig:
    """The book's settings (section 6.7)."""
    sample = parse(FinetuneSpamConfig, load(ROOT / "params.yaml")["finetune_spam"])
    book: dict[str, Any] = load(ROOT / "configs/book-offline.yaml")["finetune_spam"]
    known = {name: value for name, value in book.items() if name != "init_from"}
    return replace(sample, **known, weights="random", frozen_prefix=frozen_prefix, dropout=0.0)


def ours(shape: ModelConfig, precision: RuntimeConfig, frozen_prefix: bool = True) -> dict[str, Any]:
    """Messages per second, and the predicted class of each test message as one digit."""
    set_up_device(precision)
    settings = config(frozen_prefix)
    torch.manual_seed(0)
    model = Classifier(GPT(shape), 2, settings.position, WIDTH)
    classifier.freeze(model, settings.trainable)
    with tempfile.TemporaryDirectory() as name:
        messages: dict[str, Any] = dict(data(Path(name)))
        steps = EPOCHS * steps_per_epoch(len(messages["train"]), BATCH)
        begun = time.perf_counter()
        trained: torch.nn.Module = model
        if frozen := settings.frozen_blocks(shape.n_layer):
            trained = frozen_blocks.UpperBlocks(model, frozen)
            messages = {
                split: frozen_blocks.compute(model, frozen, part, precision, Path(name))
                for split, part in messages.items()
            }
        batches = ShuffledBatches(messages["train"], BATCH, steps, 123)
        seen = evaluation_batches(messages["train"], messages["validation"], settings)
        fit(Task(trained, losses.classification, batches, seen), settings, precision, 123)
        scores = {
            split: accuracy.predict(trained, SequentialBatches(part, BATCH), precision)
            for split, part in messages.items()
        }
        seconds = time.perf_counter() - begun
    return {"rate": steps * BATCH / seconds, "predictions": "".join(map(str, scores["test"].argmax(dim=-1).tolist()))}


def book(model: Any) -> float:
    """Messages per second of the book's script. One epoch is run and counted five times."""
    from llms_from_scratch import ch06
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(123)
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.out_head = torch.nn.Linear(768, 2)
    for part in (model.trf_blocks[-1], model.final_norm):
        for parameter in part.parameters():
            parameter.requires_grad = True
    with tempfile.TemporaryDirectory() as name:
        parts = data(Path(name))
    loaders = {}
    for split, part in parts.items():
        batch = part.batch(range(len(part)))
        training = split == "train"
        tensors = TensorDataset(batch.inputs, batch.targets)
        loaders[split] = DataLoader(tensors, BATCH, shuffle=training, drop_last=training)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.1)
    begun = time.perf_counter()
    ch06.train_classifier_simple(model, loaders["train"], loaders["validation"], optimizer, "cpu", 1, 50, 5)
    epoch = time.perf_counter() - begun
    begun = time.perf_counter()
    for loader in loaders.values():
        ch06.calc_accuracy_loader(loader, model, "cpu")
    seconds = EPOCHS * epoch + time.perf_counter() - begun
    return EPOCHS * len(loaders["train"]) * BATCH / seconds
