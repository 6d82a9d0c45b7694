"""The tables of `python -m benchmarks`, on made-up rounds."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import page, ratios, utilisation
from benchmarks.work import SHAPES, WORK


def rounds(*rates: float) -> list[dict[str, float]]:
    return [{"rate": rate, "peak_mib": 100 + rate} for rate in rates]


TRAIN = {"ours": rounds(40, 60, 50), "book": rounds(10, 10, 5)}


def test_a_ratio_is_taken_within_a_round():
    assert ratios(TRAIN, "book") == [4, 6, 10]


def test_a_line_has_medians_the_range_and_the_peaks():
    (line,) = [line for line in page({"train-13M": TRAIN}) if line.startswith("| train-13M")]
    assert line == "| train-13M | 3 | 50.0 | 10.0 | - | 6.00 (4.00 to 10.00) | - | 160 / 110 |"


def test_flops_of_gpt2_by_hand():
    # 12 layers of 12 x 768^2 weights, a head of 50257 x 768; 12 x 12 x 768 x 256 for attention
    assert SHAPES["124M"].flops_per_token(256) == 6 * (84_934_656 + 38_597_376) + 28_311_552


def test_utilisation_is_the_share_of_the_measured_rate():
    machine = {"bf16 matrix product, GFLOP/s": rounds(500)}
    flops = SHAPES["13M"].flops_per_token(256) * 50 / 1e9
    (line,) = utilisation({"machine": machine, "train-13M": TRAIN})
    assert line.endswith(f"{flops:.0f} GFLOP/s, {flops / 500:.2f} of the bf16 rate.")


@pytest.mark.parametrize("work", [work for work in WORK if work != "machine"])
def test_every_work_has_ours_and_a_peer(work):
    assert "ours" in WORK[work]
    assert len(WORK[work]) > 1
