"""Precision, recall, F1 and calibration of a classifier with any number of classes.

Precision and recall are proportions and have Wilson's interval. F1 is 2 J / (1 + J), where J is the proportion of hits
among the messages that are of the class or are predicted as it (Jaccard's index). So its interval follows from that of
J. The interval of the mean F1 is a percentile bootstrap over the messages; it is too narrow if there are few errors.
Calibration is measured as in Guo et al. 2017 (On Calibration of Modern Neural Networks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm.evaluate.stats import proportion, wilson, with_interval

BINS = 10  # of the confidence, from 0 to 1
DRAWS, SEED = 1000, 0  # of the bootstrap
BIN_COLUMNS = ("confidence_from", "confidence_to", "n", "mean_confidence", "accuracy")
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def measure(
    actual: Ints, predicted: Ints, probabilities: Floats, labels: Sequence[str]
) -> tuple[dict[str, Any], list[list[float | int]]]:
    """Return the metrics of N messages and the bins of their calibration.

    `actual` and `predicted` are classes (N,) with N > 0, `probabilities` is (N, classes). A metric without messages is
    None: precision if a class is never predicted, recall if it does not occur, F1 if both.

    - macro_f1: the mean F1 of the classes, with its interval
    - brier: the mean over the messages of the squared distance between probabilities and truth, 0 to 2 (Brier 1950)
    - calibration_error: the mean distance between confidence and accuracy over the bins, weighted by their messages
    - per_class: by label: messages (n), predictions, precision, recall, F1, and `predicted_as`, the confusion counts
    """
    size = len(labels)
    confusion = np.bincount(actual * size + predicted, minlength=size**2).reshape(size, size)  # (actual, predicted)
    per_class = {}
    for number, label in enumerate(labels):
        hits = int(confusion[number, number])
        n, said = int(confusion[number].sum()), int(confusion[:, number].sum())
        row: dict[str, Any] = {"n": n, "predicted_n": said}
        row |= proportion("precision", hits, said) | proportion("recall", hits, n)
        row |= with_interval("f1", *_f1(hits, n + said - hits))
        counts = zip(labels, confusion[number].tolist(), strict=True)
        per_class[label] = row | {"predicted_as": {other: count for other, count in counts if count}}
    known = [one["f1"] for one in per_class.values() if one["f1"] is not None]
    metrics: dict[str, Any] = with_interval("macro_f1", sum(known) / len(known), macro_f1_interval(confusion))
    truth = np.eye(size)[actual]
    metrics["brier"] = float(((probabilities - truth) ** 2).sum(axis=1).mean())
    bins = calibration_bins(probabilities.max(axis=1), actual == predicted)
    metrics["calibration_error"] = float(sum(n * abs(mean - right) for _, _, n, mean, right in bins) / len(actual))
    metrics["per_class"] = per_class
    return metrics, bins


def macro_f1_interval(confusion: Ints) -> tuple[float, float]:
    """The 95 % interval of the mean F1 of the classes, from draws of as many messages, with replacement.

    In a draw without a class, its F1 is left out.
    """
    rows, columns = confusion.nonzero()
    counts = confusion[rows, columns]
    draws = np.random.default_rng(SEED).multinomial(counts.sum(), counts / counts.sum(), size=DRAWS)  # (DRAWS, cells)
    total, classes = np.zeros(DRAWS), np.zeros(DRAWS)
    for number in range(len(confusion)):
        hits = draws[:, (rows == number) & (columns == number)].sum(axis=1)
        size = draws[:, rows == number].sum(axis=1) + draws[:, columns == number].sum(axis=1)
        total += 2 * hits / np.maximum(size, 1)
        classes += size > 0
    low, high = np.quantile(total / classes, [0.025, 0.975])
    return float(low), float(high)


def calibration_bins(confidence: Floats, right: NDArray[np.bool_]) -> list[list[float | int]]:
    """The bins with messages: lower and upper confidence, messages, their mean confidence and accuracy."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows: list[list[float | int]] = []
    for one in range(BINS):
        inside = number == one
        if n := int(inside.sum()):
            means = float(confidence[inside].mean()), float(right[inside].mean())
            rows.append([one / BINS, (one + 1) / BINS, n, *means])
    return rows


def _f1(hits: int, n: int) -> tuple[float | None, tuple[float, float] | None]:
    """F1 and its interval; `n` messages are of the class or are said to be."""
    if not n:
        return None, None
    value, low, high = (2 * share / (1 + share) for share in (hits / n, *wilson(hits, n)))
    return value, (low, high)
