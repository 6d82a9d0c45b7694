"""Predictions of a classifier and what they are worth on each split (section 6.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from llm.data import leakage
from llm.data.batches import BatchSource, Dataset, SequentialBatches
from llm.data.class_splits import SPLITS, read_split
from llm.evaluate import class_metrics, stats
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


@dataclass(frozen=True)
class Measured:
    """The metrics of all splits, one row per message, and one row per bin of the calibration."""

    metrics: dict[str, Any]
    predictions: list[list[object]]
    calibration: list[list[object]]


def prediction_columns(labels: Sequence[str]) -> list[str]:
    """The columns of `Measured.predictions`: the last ones are the probabilities of the classes."""
    return ["split", "row", "actual", "predicted", *(f"p_{label}" for label in labels)]


def measure_splits(
    model: nn.Module,
    data: Mapping[str, LabelledMessages],
    labels: Sequence[str],
    runtime: RuntimeConfig,
    batch_size: int,
    micro_batch_size: int | None,
) -> Measured:
    """Classify all messages: accuracy, precision, recall, F1 and calibration of each split, with intervals."""
    metrics: dict[str, Any] = {}
    rows: list[list[object]] = []
    calibration: list[list[object]] = []
    for split, dataset in data.items():
        batches = SequentialBatches(dataset, batch_size)
        probabilities = predict(model, batches, runtime, micro_batch_size).softmax(dim=-1)
        predicted = probabilities.argmax(dim=-1).tolist()
        right = [actual == said for actual, said in zip(dataset.labels, predicted, strict=True)]
        metrics |= stats.share(f"{split}_accuracy", right)
        table = probabilities.double().numpy()
        measured, bins = class_metrics.measure(np.array(dataset.labels), np.array(predicted), table, labels)
        metrics |= {f"{split}_{name}": value for name, value in measured.items()}
        calibration += [[split, *one] for one in bins]
        for row, (actual, said, each) in enumerate(zip(dataset.labels, predicted, probabilities.tolist(), strict=True)):
            rows.append([split, row, labels[actual], labels[said], *each])
    return Measured(metrics, rows, calibration)


def accuracy_without_leaks(
    predictions: list[list[object]], folder: Path, n_classes: int
) -> dict[str, float | int | None]:
    """Accuracy on the held-out messages that have no exact, and no exact or near, duplicate in the training split."""
    metrics: dict[str, float | int | None] = {}
    texts = {split: read_split(folder / f"{split}.csv", n_classes)[1] for split in SPLITS}
    for split in SPLITS[1:]:
        right = [actual == said for name, _, actual, said, *_ in predictions if name == split]
        found = leakage.leaks(texts[split], texts["train"])
        metrics |= stats.share(f"{split}_accuracy_without_exact", leakage.without(right, found, "exact"))
        metrics |= stats.share(f"{split}_accuracy_without_near", leakage.without(right, found, "exact", "near"))
    return metrics
