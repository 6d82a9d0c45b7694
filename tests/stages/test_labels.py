"""Labelled text of other classes than ham and spam: from a file to `llm classify`, through the stages themselves."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.weights.model_folder import save_model
from tests.stages.project import Project

WORDS = {
    "sport": ["goal", "match", "team", "coach"],
    "politics": ["vote", "party", "minister", "law"],
    "tech": ["chip", "phone", "code", "robot"],
    "not sure": ["hm", "maybe", "well", "who knows"],
}
LABELS = sorted(WORDS)


@pytest.fixture(scope="module")
def articles() -> list[tuple[str, str]]:
    chance = random.Random(0)
    rows = [(label, " ".join(chance.choices(words, k=4))) for label, words in WORDS.items() for _ in range(30)]
    chance.shuffle(rows)
    return [*rows, ("sport", "a tie, they say"), ("politics", "a tie, they say")]


@pytest.fixture
def project(tmp_path: Path, vocabulary: Path, model_config: Callable[..., ModelConfig], articles: Any) -> Project:
    """A project with a tokenizer, a tiny model and a CSV file of four classes."""
    made = Project.create(tmp_path / "project")
    made.set(
        tracking={"enabled": False},
        runtime={"threads": 1, "kernels": "native"},
        finetune_spam={"epochs": 12, "lr": 0.02, "eval_every": 40, "eval_batches": 2, "save_every": None},
    )
    shutil.copytree(vocabulary, made.folder / "data/tokenizer")
    torch.manual_seed(0)
    save_model(GPT(model_config(context_length=64, n_embd=32)), vocabulary, made.folder / "models/gpt2-sample")
    (made.folder / "data/raw/spam").mkdir(parents=True)
    with (made.folder / "data/raw/spam/articles.csv").open("w", encoding="cp1252", newline="") as file:
        csv.writer(file, delimiter=";").writerows([("Überschrift", "Ressort"), *((t, c) for c, t in articles)])
    return made


@pytest.mark.slow
def test_four_classes_go_from_a_file_to_classify(project: Project, articles: Any) -> None:
    told = project.run("stages.tokenize_spam").stderr
    assert "encoding 'cp1252'" in told
    assert "the same text has 2 labels {'politics': 1, 'sport': 1}: 'a tie, they say'" in told or (
        "the same text has 2 labels {'sport': 1, 'politics': 1}: 'a tie, they say'" in told
    )
    cut = json.loads((project.folder / "reports/tokenize/spam.json").read_text())
    assert cut["labels"] == dict(sorted(Counter(label for label, _ in articles).items()))
    assert cut["read_as"]["label_column"] == "Ressort"
    assert cut["texts_with_two_labels"] == 1
    assert cut["named_texts_with_two_labels"][0]["text"] == "a tie, they say"
    assert cut["train_labels"] == dict.fromkeys(LABELS, 21)
    assert "120 of 122 texts are kept: 'not sure' has 30 (tokenize.spam.balance: undersample)" in told
    assert json.loads((project.folder / "data/spam/labels.json").read_text()) == LABELS

    project.run("stages.finetune_spam")
    metrics = project.metrics("finetune_spam")
    assert metrics["test_accuracy"] > 0.8  # chance is 0.25
    assert list(metrics["test_per_class"]) == LABELS
    assert 0 <= metrics["test_macro_f1_ci95_low"] <= metrics["test_macro_f1"] <= metrics["test_macro_f1_ci95_high"] <= 1
    with (project.folder / "reports/finetune_spam/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["split", "row", "actual", "predicted", *(f"p_{label}" for label in LABELS)]
    for row in rows:
        probabilities = {label: float(row[f"p_{label}"]) for label in LABELS}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        assert row["predicted"] == max(probabilities, key=probabilities.__getitem__)
    with (project.folder / "reports/finetune_spam/calibration.csv").open(newline="") as file:
        bins = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert sum(int(row["n"]) for row in bins) == metrics["test_accuracy_n"]

    out = project.run("llm", "classify", "goal match team", "maybe well").stdout
    answers = [line.split("\t") for line in out.splitlines()]
    assert [(answer[0], answer[-1]) for answer in answers] == [("sport", "goal match team"), ("not sure", "maybe well")]
    assert [[each.partition("=")[0] for each in answer[1:-1]] for answer in answers] == [LABELS, LABELS]


def test_declared_names_order_and_balance_reach_the_splits(project: Project) -> None:
    names = {"tech": "science", "sport": "other", "not sure": "other", "politics": "other"}
    project.set(tokenize={"spam": {"labels": names, "balance": "none", "order": "stratified"}})
    assert "texts are kept" not in project.run("stages.tokenize_spam").stderr
    assert json.loads((project.folder / "data/spam/labels.json").read_text()) == ["science", "other"]
    cut = json.loads((project.folder / "reports/tokenize/spam.json").read_text())
    assert cut["labels"] == {"science": 30, "other": 92}
    assert cut["train_labels"] == {"science": 21, "other": 64}
    assert cut["texts_with_two_labels"] == 0


def test_a_label_that_is_not_declared_stops_the_stage_with_every_row(project: Project) -> None:
    project.set(tokenize={"spam": {"labels": {"tech": "tech", "sport": "sport", "politics": "politics"}}})
    ended = project.run("stages.tokenize_spam", ok=False)
    assert ended.returncode == 3
    assert ended.stderr.count("label 'not sure' is not in tokenize.spam.labels") == 10
    assert "20 more problems" in ended.stderr
    assert "this is a copy of what download.spam.source names" in ended.stderr
