"""Chapter 6: the messages, their splits, and the classifier before training."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader

from llm.book.appendix_a import compute_accuracy
from llm.book.ch05 import calc_loss_loader
from llm.book.measures.common import Measured, measure
from llm.book.measures.sources import LABELS, Sources
from llm.data.spam_dataset import SpamDataset
from llm.model.classifier import Classifier


@measure
def spam_counts(sources: Sources) -> Measured:
    """Messages, ham, spam; sizes of the splits; batches of 8 in each; tokens of the longest training message."""
    frame = sources.spam["all"]
    parts = [sources.spam[split] for split in ("train", "validation", "test")]
    classes = [int((frame["Label"] == label).sum()) for label in LABELS]
    batches = [len(parts[0]) // 8, *(math.ceil(len(part) / 8) for part in parts[1:])]
    longest = max(len(sources.gpt2.encode(message)) for message in parts[0]["Text"])
    return [len(frame), *classes, *(len(part) for part in parts), *batches, longest]


@measure
def spam_first_rows(sources: Sources) -> Measured:
    """Row numbers of the first five messages of the balanced sample, before shuffling; ham is drawn by pandas."""
    frame = sources.spam["all"]
    ham = frame[frame["Label"] == "ham"].sample(int((frame["Label"] == "spam").sum()), random_state=123)
    kept = {row for split in ("train", "validation", "test") for row in sources.spam[split].index}
    assert set(ham.index) <= kept  # the splits of the pipeline hold the same ham
    return [int(row) for row in ham.index[:5]]


@measure
def untrained_head(sources: Sources) -> Measured:
    """Logits of the new head at the last token of "Do you have time"."""
    model = _spam_classifier(sources)
    with torch.no_grad():
        return model(torch.tensor([sources.gpt2.encode("Do you have time")]))[0].tolist()  # type: ignore[no-any-return]


@measure
def spam_before(sources: Sources) -> Measured:
    """Accuracy (%) on 10 batches of each split, then the loss on 5 batches, before training (sections 6.6, 6.7)."""
    model, pad, width = _spam_classifier(sources), sources.gpt2.eot, 0
    loaders: list[DataLoader[Any]] = []
    for split in ("train", "validation", "test"):
        part = sources.spam[split]
        data = SpamDataset([LABELS.index(label) for label in part["Label"]], list(part["Text"]), sources.gpt2, 1024)
        width = width or data.longest
        rows = [(torch.tensor((i + [pad] * width)[:width]), c) for i, c in zip(data.ids, data.labels, strict=True)]
        training = split == "train"
        loaders.append(DataLoader(rows, batch_size=8, shuffle=training, drop_last=training))  # type: ignore[arg-type]
    torch.manual_seed(123)
    accuracies = [100 * compute_accuracy(model, islice(loader, 10)) for loader in loaders]
    with torch.no_grad():
        return [*accuracies, *(calc_loss_loader(loader, model, num_batches=5) for loader in loaders)]


def _spam_classifier(sources: Sources) -> Classifier:
    """GPT-2 124M with the new head, initialised with seed 123 (section 6.5)."""
    gpt = sources.model("gpt2-124M")
    torch.manual_seed(123)
    return Classifier(gpt, len(LABELS), "last").eval()
