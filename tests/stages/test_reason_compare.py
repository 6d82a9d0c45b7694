"""The comparison of models on the same problems, from invented answers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from benchmarks import reasoning
from llm.common import files
from stages import reason_compare


def answers(right: str, with_steps: str = "", sampled: float = 0.5) -> list[dict[str, Any]]:
    """An answer to each letter: `y` is right."""
    pairs = zip(right, with_steps or right, strict=True)
    return [
        {
            "question": f"q{i}",
            "answer": "1",
            "response": f"A{one}",
            "right": one == "y",
            "right_with_steps": stepped == "y",
            "share_right": sampled if one == "n" else 1.0,
        }
        for i, (one, stepped) in enumerate(pairs)
    ]


BASE, AFTER = answers("yynnnnnnnn", "yyyyyynnnn", 0.25), answers("ynyyyyyyyn", "yyyyyyyyyy", 0.75)


def test_a_difference_is_of_the_same_problems() -> None:
    told = reason_compare.difference("base", reason_compare.by_measure(BASE), "rl", reason_compare.by_measure(AFTER))
    name = "rl_over_base_accuracy"
    assert told[name] == pytest.approx(0.6)
    assert (told[f"{name}_only_base"], told[f"{name}_only_rl"]) == (1, 7)
    assert told[f"{name}_mcnemar_p"] == pytest.approx(18 / 256)  # two-sided, 1 of 8
    assert told[f"{name}_ci95_low"] < 0.6 < told[f"{name}_ci95_high"]
    assert told["rl_over_base_accuracy_with_steps"] == pytest.approx(0.4)
    assert (told[f"{name}_with_steps_only_base"], told[f"{name}_with_steps_only_rl"]) == (0, 4)
    assert told["rl_over_base_sampled_accuracy"] == pytest.approx((8 + 2 * 0.75 - 2 - 8 * 0.25) / 10)


def test_a_row_has_means_and_intervals() -> None:
    name, *values = reason_compare.row("rl", reason_compare.by_measure(AFTER))
    assert name == "rl"
    assert values[::3] == pytest.approx([0.8, 1.0, 0.95])
    assert all(low <= mean <= high for mean, low, high in zip(*[iter(values)] * 3, strict=True))


def test_models_are_compared_with_the_first_and_the_one_before() -> None:
    assert reason_compare.pairs(["base", "control", "rl"]) == [("base", "control"), ("base", "rl"), ("control", "rl")]
    assert reason_compare.pairs(["base"]) == []


def test_responses_stand_side_by_side(tmp_path: Path) -> None:
    reason_compare.side_by_side(tmp_path / "responses.csv", {"base": BASE, "rl": AFTER})
    rows = list(csv.DictReader((tmp_path / "responses.csv").open(encoding="utf-8")))
    assert len(rows) == 10
    assert rows[1] == {
        "question": "q1",
        "answer": "1",
        "base": "Ay",
        "base_right": "True",
        "rl": "An",
        "rl_right": "False",
    }


def test_the_page_of_the_benchmark(tmp_path: Path) -> None:
    for name, rows in (("base", BASE), ("control", BASE), ("rl", AFTER)):
        files.write_json(tmp_path / reason_compare.ANSWERS / name / "answers.json", rows)
    lines = reasoning.comparison(reasoning.PARTS["rewards"], tmp_path)
    assert "| base | 0.200 [0.057, 0.510] | 0.600 [0.313, 0.832] | 0.400 [" in lines[2]
    (told,) = [line for line in lines if line.startswith("| rewards after base")]
    assert "| +60.0 [" in told
    assert "| 1 / 7 | p = 7.0e-02 |" in told
