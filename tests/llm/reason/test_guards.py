"""When a training with rewards is ended. tests/stages/test_reason_rl.py provokes it, and the refusal, in real runs."""

from __future__ import annotations

import pytest

from llm.reason.guards import collapsed


def rows_of(accuracies: list[float], entropy: float) -> list[dict[str, float]]:
    return [{"val_sampled": value, "entropy": entropy if i else 0.4} for i, value in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "why"),
    [
        ([0.3], None),
        ([0.3, 0.5, 0.9, 0.95], None),
        ([0.3, 0.16], None),  # once is not twice
        ([0.3, 0.16, 0.155], "fell from 0.300 to 0.155, and guessing has 0.143"),
        ([0.3, 0.16, 0.25, 0.16], None),
        ([0.3, 0.14], "fell from 0.300 to 0.140"),  # below half
        ([0.3, 0.9, 0.44], "fell from 0.900 to 0.440"),
        ([0.3, 0.9, 0.46], None),
        ([0.15, 0.14, 0.15, 0.16], None),  # never better than guessing
        ([0.0, 0.0, 0.0], None),
    ],
)
def test_a_collapse_is_half_of_the_best_or_guessing_twice(accuracies: list[float], why: str | None) -> None:
    found = collapsed(rows_of(accuracies, 0.5), 800, 1 / 7)
    assert (found is None) == (why is None), found
    assert why is None or why in found


def test_a_dip_is_no_collapse_while_the_entropy_falls() -> None:
    assert collapsed(rows_of([0.3, 0.16, 0.155], 0.3), 800, 1 / 7) is None
    assert collapsed(rows_of([0.3, 0.9, 0.4], 0.3), 800, 1 / 7) is not None


def test_few_answers_may_vary() -> None:
    assert collapsed(rows_of([0.15, 0.06], 0.5), 48, 1 / 7) is None
    assert collapsed(rows_of([0.15, 0.06], 0.5), 800, 1 / 7) is not None
