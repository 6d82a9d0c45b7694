"""Folders of classifiers: round trips, what transformers computes from them, and refusal of damaged ones."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llm.common.errors import UserError
from llm.data.spam_dataset import pad_right
from llm.model.classifier import Classifier
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.weights.classifier_folder import load_classifier, save_classifier, shifted_norm_bias
from llm.weights.model_folder import load_model, load_tokenizer, save_model, starting_point

Make = Callable[..., ModelConfig]
LABELS = ["ham", "spam", "not sure", "3"]
MESSAGES = ["win now", "the lazy dogs jump", "x", "", "a<|endoftext"]


def classifier(config: ModelConfig, labels: list[str] = LABELS, position: Any = "last_token", **settings: Any) -> Any:
    """A classifier whose head has a bias that matters, and whose norm has one already."""
    torch.manual_seed(0)
    model = Classifier(GPT(config), len(labels), position, **settings).eval()
    torch.nn.init.normal_(model.score.bias, std=3)
    torch.nn.init.normal_(model.transformer.ln_f.bias)
    return model


@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize(("position", "pad_to"), [("last", 12), ("last_token", None), ("mean", None), ("mean_all", 12)])
def test_a_classifier_gives_the_same_logits_after_a_round_trip(
    tmp_path: Path, vocabulary: Path, model_config: Make, tie_head: bool, position: Any, pad_to: int | None
) -> None:
    model = classifier(model_config(tie_head=tie_head, qkv_bias=False), position=position, pad_to=pad_to)
    save_classifier(model, LABELS, vocabulary, tmp_path)
    again, labels = load_classifier(tmp_path)
    assert (labels, again.position, again.pad_to) == (LABELS, position, pad_to)
    ids, lengths = torch.randint(300, (3, 12)), torch.tensor([12, 4, 1])
    torch.testing.assert_close(again.eval()(ids, lengths), model(ids, lengths), atol=1e-5, rtol=0)
    save_classifier(again, labels, vocabulary, tmp_path / "again")
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("n_classes", [2, 4])
def test_transformers_opens_it_with_the_same_logits_and_labels(
    tmp_path: Path, vocabulary: Path, model_config: Make, n_classes: int, caplog: pytest.LogCaptureFixture
) -> None:
    labels = LABELS[:n_classes]
    model = classifier(model_config(context_length=32), labels)
    save_classifier(model, labels, vocabulary, tmp_path)
    with caplog.at_level(logging.WARNING):
        theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert not [record for record in caplog.records if "score" in record.getMessage()]
    assert theirs.config.id2label == dict(enumerate(labels))
    ours, tokenizer = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    messages = [message for message in MESSAGES if message]
    batch = pad_right([ours.encode(message) for message in messages], ours.eot, None, [0] * len(messages))
    padded = tokenizer(messages, padding=True, return_tensors="pt")
    assert torch.equal(padded["input_ids"], batch.inputs)
    with torch.no_grad():
        expected = model(batch.inputs, batch.lengths)
        torch.testing.assert_close(theirs(**padded).logits, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(theirs(batch.inputs).logits, expected, atol=1e-5, rtol=0)
        assert not torch.allclose(expected - model.score.bias, expected, atol=1)  # the control: the bias matters
        empty = pad_right([[], ours.encode("win now")], ours.eot, None, [0, 0])
        torch.testing.assert_close(theirs(empty.inputs).logits, model(empty.inputs, empty.lengths), atol=1e-5, rtol=0)


def test_a_bias_that_the_norm_cannot_hold_is_kept(tmp_path: Path, vocabulary: Path, model_config: Make) -> None:
    labels = [f"class {number}" for number in range(20)]
    model = classifier(model_config(n_embd=8), labels)
    save_classifier(model, labels, vocabulary, tmp_path)
    assert "score.bias" in load_file(tmp_path / "model.safetensors")
    ids = torch.randint(300, (3, 12))
    assert torch.equal(load_classifier(tmp_path)[0].eval()(ids), model(ids))


def test_the_norm_holds_a_bias_if_the_rows_of_the_head_are_independent() -> None:
    weight, bias = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]]), torch.tensor([3.0, 4.0])
    shifted = shifted_norm_bias(torch.ones(3), weight, bias)
    assert shifted is not None
    torch.testing.assert_close(weight @ shifted, weight @ torch.ones(3) + bias)
    assert shifted_norm_bias(torch.ones(3), torch.ones(2, 3), bias) is None


def test_a_classifier_without_the_causal_mask_survives_a_round_trip(
    tmp_path: Path, vocabulary: Path, model_config: Make
) -> None:
    model = classifier(model_config(), position="first", pad_to=12, causal=False)
    save_classifier(model, LABELS, vocabulary, tmp_path)
    ids = torch.randint(300, (3, 12))
    torch.testing.assert_close(load_classifier(tmp_path)[0].eval()(ids), model(ids), atol=1e-5, rtol=0)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "causal"}))
    assert not torch.allclose(load_classifier(tmp_path)[0].eval()(ids), model(ids), atol=1e-3)


@pytest.fixture
def folder(tmp_path: Path, vocabulary: Path, model_config: Make) -> Path:
    """The folder of a classifier of two classes."""
    save_classifier(classifier(model_config(), ["ham", "spam"]), ["ham", "spam"], vocabulary, tmp_path / "spam")
    return tmp_path / "spam"


def test_language_model_is_not_read_as_a_classifier(tmp_path: Path, vocabulary: Path, model_config: Make) -> None:
    save_model(GPT(model_config()), vocabulary, tmp_path)
    with pytest.raises(UserError, match=r"describes \['GPT2LMHeadModel'\], not a classifier"):
        load_classifier(tmp_path)


def change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("architecture", ["GPT2ForSequenceClassification", "Classifier"])
def test_classifier_is_not_read_as_a_language_model(folder: Path, architecture: str) -> None:
    change(folder, architectures=[architecture])
    for load in (load_model, lambda folder: starting_point(folder, "random", 0.0, 1)):
        with pytest.raises(UserError, match="describes a classifier, not a language model"):
            load(folder)


def test_a_folder_of_an_older_version_names_the_command_that_renews_it(folder: Path) -> None:
    change(folder, architectures=["Classifier"], labels=["ham", "spam"])
    with pytest.raises(UserError, match="is of an older version of this project"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"id2label": {}}, "id2label is {}"),
        ({"id2label": None}, "id2label is None"),
        ({"id2label": {"0": "ham", "1": "ham"}}, "id2label is"),
        ({"id2label": {"0": "ham", "2": "spam"}}, "id2label is"),
        ({"id2label": {"0": "ham", "1": 5}}, "id2label is"),
        ({"architectures": ["LlamaForSequenceClassification"]}, r"describes \['LlamaForSequenceClassification'\]"),
        ({"position": "middle"}, "not a classifier with its labels and position"),
        ({"position": None}, "not a classifier with its labels and position"),
        ({"pad_to": 0}, "pad_to is 0"),
        ({"causal": 1}, "causal is 1"),
    ],
    ids=str,
)
def test_classifier_without_its_settings_is_refused(folder: Path, changes: dict[str, Any], said: str) -> None:
    change(folder, **changes)
    with pytest.raises(UserError, match=said):
        load_classifier(folder)


@pytest.mark.parametrize(
    "score",
    [
        {"score.weight": torch.ones(3, 8), "score.bias": torch.ones(3)},
        {"score.bias": torch.ones(2)},
        {"score.weight": torch.full((2, 8), torch.nan)},
        {"score.weight": torch.ones(2, 8), "score.other": torch.ones(2)},
    ],
    ids=["three classes", "no weight", "NaN", "another tensor"],
)
def test_score_that_does_not_fit_is_refused(folder: Path, score: dict[str, torch.Tensor]) -> None:
    tensors = {n: t.clone() for n, t in load_file(folder / "model.safetensors").items() if not n.startswith("score.")}
    save_file(tensors | score, folder / "model.safetensors")
    with pytest.raises(UserError, match="the score tensors do not fit 2 labels"):
        load_classifier(folder)
