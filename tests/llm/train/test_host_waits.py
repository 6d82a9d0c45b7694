"""How often the host waits for a device that is not the CPU, in training and decoding (tests/llm/remote_run.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[1] / "remote_run.py"
EVALUATIONS = 2 * 2  # before the first and after the last update, of two splits
UPDATES = 12


@pytest.fixture(scope="module")
def found() -> Any:
    run = subprocess.run([sys.executable, str(PROGRAM)], check=False, capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("batch", ["whole", "micro"])
def test_training_waits_once_in_log_every_updates_and_once_in_an_evaluation(found: Any, batch: str) -> None:
    waits = {every: found[f"train {batch} {every}"] for every in (1, 4, 100)}
    assert waits == {1: UPDATES + EVALUATIONS, 4: UPDATES / 4 + EVALUATIONS, 100: 1 + EVALUATIONS}


def test_a_classifier_waits_for_both_measures_of_an_evaluation(found: Any) -> None:
    assert found["train classifier 4"] == UPDATES / 4 + 2 * EVALUATIONS


def test_an_update_with_rewards_waits_once_for_what_it_measures(found: Any) -> None:
    assert found["rewards"] == 1  # of three micro-batches


def test_rewards_preferences_and_a_teacher_search_nothing_on_the_device(found: Any) -> None:
    assert found["searches"] == {"grpo": {}, "dpo": {}, "soft targets": {}}


def test_measures_of_an_update_have_its_own_gradient_norm(found: Any) -> None:
    each, some = found["norms"]
    assert some == each
    assert len({norm for norm, _ in each}) == len(each) > 3


def test_every_row_after_the_first_has_a_speed(found: Any) -> None:
    assert found["speeds"] == [False, True, True, True]


def test_the_loss_is_that_of_the_cpu(found: Any) -> None:
    on_device, on_cpu = found["loss"]
    assert on_device == pytest.approx(on_cpu, rel=1e-5)


@pytest.mark.parametrize(("log_every", "save_every", "updates"), [(100, 100, 11), (100, 8, 8), (3, 100, 5)])
def test_divergence_keeps_the_weights_and_is_found_before_they_are_saved(
    found: Any, log_every: int, save_every: int, updates: int
) -> None:
    run = found["diverged"][f"{log_every} {save_every}"]
    assert run["said"].startswith("training diverged after 5 steps: loss nan, gradient norm nan at lr 0.00815")
    assert run["saved"] == []
    assert run["updates"] == updates  # until a reading is due: of the numbers, for a saved state, or at the end
    assert run["as_before"] == [False] * 4 + [True] * (updates - 4)  # the sixth update and all later ones are skipped


def test_mps_is_read_at_every_update(found: Any) -> None:
    run = found["diverged on mps"]
    assert run["said"].startswith("training diverged after 5 steps: loss nan, gradient norm nan at lr 0.00815")
    assert (run["saved"], run["as_before"]) == ([], [False] * 4 + [True])


@pytest.mark.parametrize("kind", ["greedy", "sampled", "served"])
def test_decoding_waits_once_for_a_token_of_every_row(found: Any, kind: str) -> None:
    assert found[kind] == {"waits": 10, "same": True}
