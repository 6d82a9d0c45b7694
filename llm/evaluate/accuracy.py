"""Predictions of a classifier and its accuracy on each split (section 6.6)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from llm.data import leakage
from llm.data.batches import BatchSource, Dataset, SequentialBatches
from llm.data.spam import LABELS, SPLITS, read_split
from llm.evaluate import stats
from llm.runtime.device import RuntimeConfig, autocast


class LabelledMessages(Dataset, Protocol):
    """A dataset of messages with their classes."""

    labels: list[int]


@torch.no_grad()
def predict(model: nn.Module, data: BatchSource, runtime: RuntimeConfig, micro_batch_size: int | None = None) -> Tensor:
    """Class logits (N, classes) of all examples of `data`, in fp32 on the CPU."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = []
    with autocast(runtime):  # enter once: autocast caches the cast weights
        for index in range(len(data)):
            for micro in data[index].split(micro_batch_size):
                batch = micro.to(device)
                parts.append(model(batch.inputs, batch.lengths).float().cpu())
    model.train(was_training)
    return torch.cat(parts)


def judge_splits(
    model: nn.Module,
    data: Mapping[str, LabelledMessages],
    runtime: RuntimeConfig,
    batch_size: int,
    micro_batch_size: int | None,
) -> tuple[dict[str, float | int | None], list[list[object]]]:
    """The metrics of all splits (accuracy, its interval, confusion counts) and one row per message."""
    metrics: dict[str, float | int | None] = {}
    rows: list[list[object]] = []
    for split, dataset in data.items():
        batches = SequentialBatches(dataset, batch_size)
        probabilities = predict(model, batches, runtime, micro_batch_size).softmax(dim=-1)
        predicted = probabilities.argmax(dim=-1).tolist()
        pairs = list(zip(dataset.labels, predicted, strict=True))
        metrics |= stats.share(f"{split}_accuracy", [actual == said for actual, said in pairs])
        for actual, said in product(range(len(LABELS)), repeat=2):
            metrics[f"{split}_{LABELS[actual]}_as_{LABELS[said]}"] = pairs.count((actual, said))
        for row, ((actual, said), spam) in enumerate(zip(pairs, probabilities[:, 1].tolist(), strict=True)):
            rows.append([split, row, LABELS[actual], LABELS[said], spam])
    return metrics, rows


def accuracy_without_leaks(predictions: list[list[object]], folder: Path) -> dict[str, float | int | None]:
    """Accuracy on the held-out messages that have no exact, and no exact or near, duplicate in the training split."""
    metrics: dict[str, float | int | None] = {}
    texts = {split: read_split(folder / f"{split}.csv")[1] for split in SPLITS}
    for split in SPLITS[1:]:
        right = [actual == said for name, _, actual, said, _ in predictions if name == split]
        found = leakage.leaks(texts[split], texts["train"])
        metrics |= stats.share(f"{split}_accuracy_without_exact", leakage.without(right, found, "exact"))
        metrics |= stats.share(f"{split}_accuracy_without_near", leakage.without(right, found, "exact", "near"))
    return metrics
