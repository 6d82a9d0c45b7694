"""Metrics of any number of classes: by hand, compared with scikit-learn, and intervals that hold the truth."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import brier_score_loss, confusion_matrix, f1_score, precision_score, recall_score

from llm.evaluate.class_metrics import BINS, calibration_bins, macro_f1_interval, measure


def draw(n: int, n_classes: int, seed: int) -> tuple:
    """Classes, predictions and probabilities that are right about half of the time."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(size=(n, n_classes))
    actual = chance.integers(n_classes, size=n)
    logits[np.arange(n), actual] += 1.0
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return actual, probabilities.argmax(axis=1), probabilities


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_the_metrics_are_those_of_scikit_learn(n_classes):
    actual, predicted, probabilities = draw(200, n_classes, seed=n_classes)
    labels = [f"class {n}" for n in range(n_classes)]
    metrics, _ = measure(actual, predicted, probabilities, labels)
    each = metrics["per_class"]
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert [each[label][name] for label in labels] == pytest.approx(score(actual, predicted, average=None).tolist())
    assert metrics["macro_f1"] == pytest.approx(f1_score(actual, predicted, average="macro"))
    confusion = [[each[label]["predicted_as"].get(other, 0) for other in labels] for label in labels]
    assert confusion == confusion_matrix(actual, predicted).tolist()
    if n_classes == 2:
        assert metrics["brier"] == pytest.approx(2 * brier_score_loss(actual, probabilities[:, 1]))


def test_the_intervals_of_precision_and_recall_are_wilsons():
    metrics, _ = measure(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), np.full((4, 2), 0.5), ["a", "b"])
    row = metrics["per_class"]["a"]
    expected = binomtest(2, 3).proportion_ci(method="wilson")
    assert (row["n"], row["predicted_n"], row["recall"], row["precision"]) == (3, 2, 2 / 3, 1.0)
    assert (row["recall_ci95_low"], row["recall_ci95_high"]) == pytest.approx((expected.low, expected.high))
    assert row["precision_ci95_low"] < 1.0 == row["precision_ci95_high"]


def test_a_class_that_is_absent_or_never_predicted_has_no_figure_instead_of_0():
    metrics, _ = measure(np.array([0, 0, 1]), np.array([0, 0, 0]), np.full((3, 3), 1 / 3), ["a", "b", "c"])
    b, c = metrics["per_class"]["b"], metrics["per_class"]["c"]
    assert (b["precision"], b["recall"], b["f1"]) == (None, 0.0, 0.0)
    assert (c["precision"], c["recall"], c["f1"], c["f1_ci95_low"]) == (None, None, None, None)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 0.0) / 2)


def test_the_intervals_of_f1_hold_the_true_value_about_95_times_in_100():
    actual, predicted, probabilities = draw(200_000, 3, seed=0)
    truth, macro = (f1_score(actual, predicted, average=average) for average in (None, "macro"))
    inside = {"f1": 0, "macro_f1": 0}
    for start in range(0, 200 * 150, 150):
        part = slice(start, start + 150)
        metrics, _ = measure(actual[part], predicted[part], probabilities[part], ["a", "b", "c"])
        for name, row, value in (("f1", metrics["per_class"]["a"], truth[0]), ("macro_f1", metrics, macro)):
            inside[name] += row[f"{name}_ci95_low"] <= value <= row[f"{name}_ci95_high"]
    assert all(180 <= count <= 199 for count in inside.values()), inside


def test_an_f1_of_0_or_1_is_not_certain():
    metrics, _ = measure(np.array([0, 0, 1, 1]), np.array([0, 0, 2, 2]), np.full((4, 3), 1 / 3), ["a", "b", "c"])
    a, b = metrics["per_class"]["a"], metrics["per_class"]["b"]
    assert a["f1_ci95_low"] < a["f1"] == a["f1_ci95_high"] == 1
    assert b["f1_ci95_low"] == b["f1"] == 0 < b["f1_ci95_high"]


def test_the_same_messages_have_the_same_interval():
    confusion = np.array([[20, 3], [5, 30]])
    assert macro_f1_interval(confusion) == macro_f1_interval(confusion)


def test_calibration_by_hand():
    confidence = np.array([0.55, 0.59, 0.95, 1.0, 0.91, 0.92])
    bins = calibration_bins(confidence, np.array([True, False, True, True, True, False]))
    assert bins == [
        [0.5, 0.6, 2, pytest.approx(0.57), 0.5],
        [0.9, 1.0, 4, pytest.approx(0.945), 0.75],
    ]
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    metrics, same = measure(np.array([0, 1, 0, 0, 0, 1]), np.zeros(6, int), probabilities, ["a", "b"])
    assert same == bins
    assert metrics["calibration_error"] == pytest.approx((2 * 0.07 + 4 * 0.195) / 6)


def test_every_confidence_is_in_one_bin():
    confidence = np.linspace(0, 1, 10 * BINS + 1)
    bins = calibration_bins(confidence, np.ones(len(confidence), bool))
    assert sum(n for _, _, n, _, _ in bins) == len(confidence)
    assert len(bins) == BINS


def test_a_perfect_and_certain_classifier_has_no_error():
    actual = np.array([0, 1, 2] * 5)
    metrics, bins = measure(actual, actual, np.eye(3)[actual], ["a", "b", "c"])
    assert (metrics["brier"], metrics["calibration_error"], metrics["macro_f1"]) == (0, 0, 1)
    assert (metrics["macro_f1_ci95_low"], metrics["macro_f1_ci95_high"]) == (1, 1)
    assert bins == [[0.9, 1.0, 15, 1.0, 1.0]]
