"""Preference optimisation as stages: what they publish and report, from our pairs and one's own, and after a kill."""

from __future__ import annotations

import csv
import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from llm.common import files
from llm.preference.wordings import read
from llm.weights import model_folder
from tests.forks import Forks
from tests.stages.forked import build, run
from tests.stages.project import ROOT, Project

pytestmark = pytest.mark.slow

BEFORE = ["check", "download corpus", "download instructions", "tokenizer", "tokenize_corpus", "tokenize_instructions"]
STAGES = ["preferences", "preference_base", "finetune_dpo"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Project:
    """The smoke project on a part of the sample, after its three stages of preferences."""
    made = Project.small(
        tmp_path_factory.mktemp("dpo") / "project",
        finetune_instruct={"init_from": "models/pretrain"},
        preference_base={"batch_size": 16},
        finetune_dpo={"lr": 0.001, "batch_size": 4, "eval_every": 3, "save_every": 3, "keep": "best"},
    )
    build(made, forks, *BEFORE, "pretrain", *STAGES)
    return made


def pairs(project: Project, split: str) -> list[dict[str, Any]]:
    return list(files.read_json(project.folder / f"data/preferences/{split}.json"))


def test_pairs_are_made_of_the_instructions_of_their_split(built: Project) -> None:
    counts = built.metrics("preferences")
    for split in ("train", "test", "validation"):
        entries = files.read_json(built.folder / f"data/instructions/{split}.json")
        made = pairs(built, split)
        assert counts[split] == len(made) == len(entries)
        assert [pair["answer"] for pair in made] == [entry["output"] for entry in entries]
    assert [pair["instruction"] for pair in pairs(built, "unseen")] == [p["instruction"] for p in pairs(built, "test")]


def test_pairs_are_made_without_torch() -> None:
    asked = "import sys, stages.preferences; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_curve_starts_with_ties_and_holds_both_rewards(built: Project) -> None:
    with (built.folder / "reports/finetune_dpo/curve.csv").open(newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == [0, 3, 6, 8]
    first, last = rows[0], rows[-1]
    assert (first["train_accuracy"], first["val_accuracy"], first["val_margin"]) == (0.5, 0.5, 0)
    for row in rows:
        assert row["val_margin"] == pytest.approx(row["val_chosen_reward"] - row["val_rejected_reward"], abs=1e-4)
    assert last["train_margin"] > 0
    told = built.metrics("finetune_dpo")
    assert told["val_loss"] == min(row["val_loss"] for row in rows)


def test_accuracies_and_answers_are_reported_with_intervals(built: Project) -> None:
    told = built.metrics("finetune_dpo")
    shares = ["test_accuracy", "unseen_accuracy", "changed"]
    shares += [f"{name}_{when}" for name in ("chosen_style", "rejected_style", "right") for when in ("before", "after")]
    for name in shares:
        assert 0 <= told[f"{name}_ci95_low"] <= told[name] <= told[f"{name}_ci95_high"] <= 1
    assert told["test_accuracy_n"] == told["unseen_accuracy_n"] == len(pairs(built, "test"))
    answers = json.loads((built.folder / "reports/finetune_dpo/answers.json").read_text())
    assert len(answers) == told["changed_n"] == 8
    assert told["changed"] == sum(row["before"] != row["after"] for row in answers) / 8
    assert {"chosen", "rejected", "style_before", "style_after"} <= set(answers[0])


def test_the_models_keep_the_prompt_of_their_training(built: Project) -> None:
    for name in ("preference_base", "dpo"):
        config = json.loads((built.folder / f"models/{name}/config.json").read_text())
        assert config["prompt"] == "alpaca"
        assert model_folder.load_model(built.folder / f"models/{name}").config.n_layer == 1


@pytest.mark.parametrize("stage", ["preference_base", "finetune_dpo"])
def test_killed_at_any_point_it_ends_with_the_same_bytes(
    stage: str, built: Project, forks: Forks, tmp_path: Path
) -> None:
    project, good = built.copy(tmp_path / "project"), built.bytes()
    model = {"finetune_dpo": "models/dpo"}.get(stage, f"models/{stage}")
    for kill_at in (4, 8, 12):
        for name in (".work", model, f"reports/{stage}"):
            shutil.rmtree(project.folder / name, ignore_errors=True)
        (project.folder / ".work").mkdir()
        assert run(project, forks, stage, kill_at=kill_at).killed
        assert run(project, forks, stage).code == 0
        assert project.bytes() == good, kill_at


KILLS = 6


@pytest.mark.long
def test_dpo_killed_at_any_time(built: Project, forks: Forks, tmp_path: Path) -> None:
    """While it starts, trains, answers or saves; a run is killed again and again until one gets through."""
    project, good = built.copy(tmp_path / "project"), built.bytes()
    draw, whole, killed = random.Random(1), 0.0, 0
    for _ in range(KILLS + 1):  # the first one is timed, and not killed
        for name in (".work", "models/dpo", "reports/finetune_dpo"):
            shutil.rmtree(project.folder / name, ignore_errors=True)
        (project.folder / ".work").mkdir()
        started = time.monotonic()
        while run(project, forks, "finetune_dpo", kill_after=draw.uniform(0.1, 1) * whole or None).killed:
            killed += 1
        whole = whole or time.monotonic() - started
        assert project.bytes() == good
    assert killed >= KILLS / 2


def test_pairs_of_ones_own_are_trained_on(built: Project, forks: Forks, tmp_path: Path) -> None:
    project = built.copy(tmp_path / "project")
    rows = [{"prompt": f"Say {n}.", "chosen": f"Yes, {n}.", "rejected": f"No, {n}."} for n in range(60)]
    (project.folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    project.set(preferences={"source": "own.jsonl"}, finetune_dpo={"init_from": "models/pretrain", "answers": 4})
    build(project, forks, "check", "preferences", "finetune_dpo")
    assert project.metrics("preferences") == {"train": 51, "test": 6, "validation": 3, "alike": 0, "repeated": 0}
    told = project.metrics("finetune_dpo")
    assert told["chosen_style_before_n"] == 4
    assert not {"right_before", "unseen_accuracy"} & set(told)


def test_a_pair_that_does_not_fit_is_refused_before_any_training(built: Project, forks: Forks, tmp_path: Path) -> None:
    project = built.copy(tmp_path / "project")
    for split in ("train", "unseen"):
        made = pairs(project, split)
        made[1]["chosen"] = "very " * 300 + "long"
        files.write_json(project.folder / f"data/preferences/{split}.json", made)
    ended = run(project, forks, "finetune_dpo")
    assert ended.code == 3
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert [line.partition(": question")[0] for line in lines] == [
        f"error: data/preferences/{split}.json: pair 2" for split in ("train", "unseen")
    ]


def test_a_source_that_is_not_there_is_named(built: Project, forks: Forks, tmp_path: Path) -> None:
    project = built.copy(tmp_path / "project")
    project.set(preferences={"source": "own.json"}, finetune_dpo={"init_from": "models/instrct"})
    ended = run(project, forks, "check")
    assert ended.code == 2
    assert "params.yaml: preferences.source: 'own.json' is not on disk" in ended.err
    what = "finetune_dpo.init_from: 'models/instrct' is not on disk, and no stage makes it"
    assert f"{what} | fix: did you mean models/instruct?" in ended.err


def test_answers_after_are_read_as_their_style(built: Project) -> None:
    prefer = "polite"
    for row in json.loads((built.folder / "reports/finetune_dpo/answers.json").read_text()):
        styles = {prefer: "chosen", "blunt": "rejected", None: "neither"}
        assert row["style_after"] == styles[read(row["after"]).style]
