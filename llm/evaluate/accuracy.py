"""Predictions of a classifier, and its accuracy on each split (section 6.6)."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Messages as batches, with the class of each."""

    labels: list[int]


@torch.no_grad()
def predict(model: nn.Module, data: BatchSource, runtime: RuntimeConfig, micro_batch_size: int | None = None) -> Tensor:
    """Class logits (N, classes) of every example of `data`, in order, fp32 on the CPU."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    parts = []
    with autocast(runtime):  # once: it keeps what it makes of the weights
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
    """Accuracy with its interval and confusion counts of every split, and one row a message."""
    metrics: dict[str, float | int | None] = {}
    rows: list[list[object]] = []
    for split, dataset in data.items():
        batches = SequentialBatches(dataset, batch_size)
        probabilities = predict(model, batches, runtime, micro_batch_size).softmax(dim=-1)
        predicted = probabilities.argmax(dim=-1).tolist()
        right = [p == a for p, a in zip(predicted, dataset.labels, strict=True)]
        metrics |= stats.share(f"{split}_accuracy", right)
        for actual, said in [(a, p) for a in range(len(LABELS)) for p in range(len(LABELS))]:
            hits = sum(pair == (actual, said) for pair in zip(dataset.labels, predicted, strict=True))
            metrics[f"{split}_{LABELS[actual]}_as_{LABELS[said]}"] = hits
        for row, (actual, said, spam) in enumerate(
            zip(dataset.labels, predicted, probabilities[:, 1].tolist(), strict=True)
        ):
            rows.append([split, row, LABELS[actual], LABELS[said], spam])
    return metrics, rows


def unleaked(predictions: list[list[object]], folder: Path) -> dict[str, float | int | None]:
    """Accuracy on the held-out messages that do not stand in the training split, exactly or nearly."""
    metrics: dict[str, float | int | None] = {}
    texts = {split: read_split(folder / f"{split}.csv")[1] for split in SPLITS}
    for split in SPLITS[1:]:
        right = [actual == said for of, _, actual, said, _ in predictions if of == split]
        found = leakage.leaks(texts[split], texts["train"])
        metrics |= stats.share(f"{split}_accuracy_without_exact", leakage.without(right, found, "exact"))
        metrics |= stats.share(f"{split}_accuracy_without_near", leakage.without(right, found, "exact", "near"))
    return metrics
