"""Model folders: round trips, starting points, classifiers, and refusal of damaged files and of code in them."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llm.common.errors import DATA, UserError
from llm.common.files import sha256
from llm.data import tokenizer
from llm.model.classifier import Classifier
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.weights.model_folder import (
    load_classifier,
    load_model,
    load_tokenizer,
    save_classifier,
    save_model,
    starting_point,
)

Make = Callable[..., ModelConfig]


@pytest.fixture
def folder(tmp_path: Path, vocabulary: Path, model_config: Make) -> Path:
    """A model folder."""
    torch.manual_seed(0)
    save_model(GPT(model_config(dropout=0.1)), vocabulary, tmp_path / "model")
    return tmp_path / "model"


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


# Model folders


def test_saving_twice_writes_the_same_bytes(folder: Path, vocabulary: Path, tmp_path: Path) -> None:
    save_model(load_model(folder), vocabulary, tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(folder)


def test_folder_holds_its_tokenizer(folder: Path, vocabulary: Path) -> None:
    assert load_tokenizer(folder).encode("lazy dogs") == load_tokenizer(vocabulary).encode("lazy dogs")
    assert all((folder / name).read_bytes() == (vocabulary / name).read_bytes() for name in tokenizer.FILES)


def test_tokenizer_of_another_size_is_refused(folder: Path, tmp_path: Path, model_config: Make) -> None:
    with pytest.raises(UserError, match="a vocabulary of 300 tokens, but the model of 301") as caught:
        save_model(GPT(model_config(vocab_size=301)), folder, tmp_path / "other")
    assert caught.value.code == DATA


def test_changing_a_loaded_model_leaves_its_file_alone(folder: Path) -> None:
    before, model = hashes(folder), load_model(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert hashes(folder) == before
    assert not torch.equal(load_model(folder).transformer.wte.weight, model.transformer.wte.weight)


def test_a_loaded_model_outlives_its_file(folder: Path) -> None:
    model = load_model(folder)
    expected = load_model(folder).transformer.wte.weight.clone()
    (folder / "model.safetensors").unlink()
    assert torch.equal(model.transformer.wte.weight, expected)


# Starting points


def test_a_starting_point_replaces_all_dropout_rates(tmp_path: Path, vocabulary: Path, model_config: Make) -> None:
    rates = {"dropout": 0.1, "dropout_embedding": 0.2, "dropout_attention": 0.0}
    save_model(GPT(model_config(**rates)), vocabulary, tmp_path)
    config = starting_point(tmp_path, "pretrained", 0.3, seed=0).config
    assert (config.dropout, config.embedding_rate, config.attention_rate) == (0.3, 0.3, 0.3)


def test_the_prompt_format_is_written_only_if_given(tmp_path: Path, vocabulary: Path, model_config: Make) -> None:
    save_model(GPT(model_config()), vocabulary, tmp_path / "plain")
    save_model(GPT(model_config()), vocabulary, tmp_path / "taught", prompt="phi3")
    plain, taught = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("plain", "taught"))
    assert taught == plain | {"prompt": "phi3"}
    load_model(tmp_path / "taught")


def test_pretrained_starting_point_has_the_folders_weights_and_its_own_dropout(folder: Path) -> None:
    model = starting_point(folder, "pretrained", 0.3, seed=1)
    assert model.config.dropout == model.transformer.drop.rate == 0.3
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), load_model(folder).parameters(), strict=True))


def test_random_starting_point_has_the_folders_shape_and_weights_of_its_seed(folder: Path) -> None:
    first, again, other = (starting_point(folder, "random", 0.1, seed).transformer.wte.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, load_model(folder).transformer.wte.weight)
    assert starting_point(folder, "random", 0.1, 1).config == load_model(folder).config


# Damaged and foreign files


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def bomb(path: Path, canary: Path) -> None:
    """Write a file as `torch.save` does, that runs code when it is unpickled."""
    torch.save({"transformer.wte.weight": Canary(canary)}, path)


def test_the_canary_makes_a_file_when_unpickled(tmp_path: Path) -> None:
    # control for the tests below
    pickle.loads(pickle.dumps(Canary(tmp_path / "sang")))
    assert (tmp_path / "sang").exists()


def test_pickle_under_the_name_of_the_weights_is_not_run(folder: Path, tmp_path: Path) -> None:
    bomb(folder / "model.safetensors", tmp_path / "sang")
    with pytest.raises(UserError, match="not safetensors") as caught:
        load_model(folder)
    assert not (tmp_path / "sang").exists()
    assert "weights_only" not in str(caught.value)


def test_pickle_next_to_missing_weights_is_named_and_not_run(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    bomb(folder / "pytorch_model.bin", tmp_path / "sang")
    with pytest.raises(UserError, match=r"no such file, only pytorch_model\.bin, which can run code"):
        load_model(folder)
    assert not (tmp_path / "sang").exists()


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", r"not safetensors \(0 bytes\)"),
    "truncated": (lambda data: data[:-100], "not safetensors"),
    "truncated in the header": (lambda data: data[:50], r"not safetensors \(50 bytes\)"),
    "trailing bytes": (lambda data: data + b"\0" * 8, "not safetensors"),
    "git-lfs pointer": (
        lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Git-LFS pointer",
    ),
    "page of a proxy": (lambda data: b"<!DOCTYPE html><html>Sign in</html>", "not safetensors"),
    "unknown type": (lambda data: data.replace(b'"F32"', b'"Q32"'), "not safetensors"),
    "header of another length": (lambda data: (2**40).to_bytes(8, "little") + data[8:], "not safetensors"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_weights_are_refused(folder: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        load_model(folder)
    assert (caught.value.where, caught.value.code) == (str(path), DATA)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file \\|"):
        load_model(folder)


# Classifiers


@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize(("position", "pad_to"), [("last", 12), ("last_token", None), ("mean", None)])
def test_classifier_is_bitwise_the_same_after_a_round_trip(
    tmp_path: Path, vocabulary: Path, model_config: Make, tie_head: bool, position: Any, pad_to: int | None
) -> None:
    torch.manual_seed(0)
    model = Classifier(GPT(model_config(tie_head=tie_head, qkv_bias=False)), 2, position, pad_to).eval()
    save_classifier(model, ["ham", "spam"], vocabulary, tmp_path)
    again, labels = load_classifier(tmp_path)
    assert (labels, again.position, again.pad_to) == (["ham", "spam"], position, pad_to)
    ids, lengths = torch.randint(300, (3, 12)), torch.tensor([12, 4, 1])
    assert torch.equal(again.eval()(ids, lengths), model(ids, lengths))


def test_a_classifier_without_the_causal_mask_survives_a_round_trip(
    tmp_path: Path, vocabulary: Path, model_config: Make
) -> None:
    model = Classifier(GPT(model_config()), 2, "first", 12, causal=False).eval()
    save_classifier(model, ["ham", "spam"], vocabulary, tmp_path)
    ids = torch.randint(300, (3, 12))
    assert torch.equal(load_classifier(tmp_path)[0].eval()(ids), model(ids))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "causal"}))
    assert not torch.allclose(load_classifier(tmp_path)[0].eval()(ids), model(ids), atol=1e-6)  # an older folder


@pytest.fixture
def spam(tmp_path: Path, vocabulary: Path, model_config: Make) -> Path:
    """The folder of a classifier."""
    save_classifier(Classifier(GPT(model_config()), 2, "last", 12), ["ham", "spam"], vocabulary, tmp_path / "spam")
    return tmp_path / "spam"


def test_language_model_is_not_read_as_a_classifier(folder: Path) -> None:
    with pytest.raises(UserError, match=r"describes \['GPT2LMHeadModel'\], not a classifier"):
        load_classifier(folder)


def test_classifier_is_not_read_as_a_language_model(spam: Path) -> None:
    for load in (load_model, lambda folder: starting_point(folder, "random", 0.0, 1)):
        with pytest.raises(UserError, match="describes a classifier, not a language model"):
            load(spam)


@pytest.mark.parametrize(
    "changes", [{"labels": []}, {"labels": None}, {"position": "middle"}, {"position": None}], ids=str
)
def test_classifier_without_its_settings_is_refused(spam: Path, changes: dict[str, Any]) -> None:
    config = json.loads((spam / "config.json").read_text())
    (spam / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match="not a classifier with its labels and position"):
        load_classifier(spam)


@pytest.mark.parametrize(
    "score",
    [
        {"score.weight": torch.ones(3, 8), "score.bias": torch.ones(3)},
        {"score.weight": torch.ones(2, 8)},
        {"score.weight": torch.full((2, 8), torch.nan), "score.bias": torch.ones(2)},
    ],
    ids=["three classes", "no bias", "NaN"],
)
def test_score_that_does_not_fit_is_refused(spam: Path, score: dict[str, torch.Tensor]) -> None:
    tensors = {n: t.clone() for n, t in load_file(spam / "model.safetensors").items() if not n.startswith("score.")}
    save_file(tensors | score, spam / "model.safetensors")
    with pytest.raises(UserError, match="the score tensors do not fit 2 labels"):
        load_classifier(spam)
