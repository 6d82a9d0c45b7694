"""Model folders: round trips, starting points, and refusal of damaged files and of code in them."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llm.common.errors import DATA, UserError
from llm.common.files import sha256
from llm.data import tokenizer
from llm.data.prompts import RESPONSE, format_prompt
from llm.generate.config import greedy
from llm.generate.decoding import generate
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.weights import families, gpt2, model_folder
from llm.weights.layout import misfits
from llm.weights.model_folder import load_model, load_tokenizer, save_model, starting_point
from tests import tiny_tokenizers
from tests.llm.tiny_models import theirs

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


def test_tokenizer_with_more_tokens_than_the_model_is_refused(folder: Path, tmp_path: Path, model_config: Make) -> None:
    with pytest.raises(UserError, match="a vocabulary of 300 tokens, but the model of 299") as caught:
        save_model(GPT(model_config(vocab_size=299)), folder, tmp_path / "other")
    assert caught.value.code == DATA


def test_a_model_may_have_more_rows_than_there_are_tokens(tmp_path: Path, vocabulary: Path, model_config: Make) -> None:
    torch.manual_seed(0)
    save_model(GPT(model_config(vocab_size=320)), vocabulary, tmp_path)
    model, tokenizer = load_model(tmp_path), load_tokenizer(tmp_path)
    assert (model.config.vocab_size, tokenizer.vocab_size) == (320, 300)
    assert tokenizer.decode([319, *tokenizer.encode("fox"), 300]) == "fox"


@pytest.mark.parametrize(
    ("ids", "left"),
    [
        ({"bos_token_id": 310, "eos_token_id": [299, 305, 7], "pad_token_id": 300}, {"eos_token_id": [299, 7]}),
        (
            {"bos_token_id": 299, "eos_token_id": [300, 10**30], "pad_token_id": 0},
            {"bos_token_id": 299, "pad_token_id": 0},
        ),
        ({"bos_token_id": None, "eos_token_id": 319}, {"bos_token_id": None}),
        ({"bos_token_id": 5, "eos_token_id": [299, 299], "pad_token_id": 299}, None),
        ({"eos_token_id": [], "pad_token_id": None}, None),
        ({}, None),
    ],
    ids=str,
)
def test_ids_whose_rows_were_dropped_are_no_longer_named(
    tmp_path: Path, vocabulary: Path, model_config: Make, ids: dict[str, Any], left: dict[str, Any] | None
) -> None:
    """`left` is what stays of the ids; None: all, and the file has the same bytes."""
    source, saved = tmp_path / "source", tmp_path / "saved"
    shutil.copytree(vocabulary, source)
    rest = {"do_sample": True, "temperature": 0.123456789, "transformers_version": "4.0.0"}
    (source / "generation_config.json").write_text(written := json.dumps(rest | ids))
    torch.manual_seed(0)
    model = GPT(model_config(vocab_size=320))
    assert families.trim_vocabulary(model, 300, "source") == 20
    save_model(model, source, saved)
    if left is None:
        assert (saved / "generation_config.json").read_text() == written
        return
    assert json.loads((saved / "generation_config.json").read_text()) == rest | left
    settings = AutoModelForCausalLM.from_pretrained(saved).generation_config
    assert settings.eos_token_id == left.get("eos_token_id")
    assert (source / "generation_config.json").read_text() == written


def test_a_model_with_all_rows_keeps_the_ids_that_the_tokenizer_lacks(
    tmp_path: Path, vocabulary: Path, model_config: Make
) -> None:
    shutil.copytree(vocabulary, source := tmp_path / "source")
    (source / "generation_config.json").write_text(written := '{"eos_token_id": [299, 310], "pad_token_id": 319}')
    save_model(GPT(model_config(vocab_size=320)), source, tmp_path / "saved")
    assert (tmp_path / "saved/generation_config.json").read_text() == written


def test_a_taught_model_has_the_chat_template_of_its_prompts(
    tmp_path: Path, vocabulary: Path, model_config: Make
) -> None:
    save_model(GPT(model_config(context_length=256)), vocabulary, tmp_path, prompt="alpaca")
    theirs, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    entry = {"instruction": "Name a fruit.", "input": ""}
    ids = theirs.apply_chat_template(
        [{"role": "user", "content": entry["instruction"]}], add_generation_prompt=True, return_dict=False
    )
    prompt = load_tokenizer(tmp_path).encode(format_prompt(entry) + RESPONSE)
    assert ids == prompt
    settings = model.generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == (299, 299)
    new = model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
    ours = generate(load_model(tmp_path), [prompt], greedy(8), load_tokenizer(tmp_path).stops)[0]
    assert [token for token in new if token != 299] == ours


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


@pytest.mark.parametrize("apart", [False, True])
def test_all_tokens_that_end_a_text_are_saved(tmp_path: Path, apart: bool) -> None:
    """A list in config.json alone, beside the tokenizer or in the folder of the weights."""
    source, weights = tiny_tokenizers.make("llama3", tmp_path / "source"), tmp_path / "weights"
    (source / "generation_config.json").unlink()
    settings = json.loads((source / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    known = load_tokenizer(source)
    ends = [known.special["<|eot_id|>"], known.special["<|end_of_text|>"]]
    model = theirs("llama", vocab_size=known.vocab_size, eos_token_id=ends)
    model.save_pretrained(weights if apart else source)
    for path in tmp_path.glob("*/generation_config.json"):
        path.unlink()
    save_model(load_model(weights if apart else source), source, tmp_path / "ours", source=weights if apart else None)
    written = json.loads((tmp_path / "ours/config.json").read_text())
    assert (written["bos_token_id"], written["eos_token_id"]) == (known.special["<|begin_of_text|>"], ends)
    assert load_tokenizer(tmp_path / "ours").stops == set(ends)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ours").generation_config.eos_token_id == ends


def test_settings_are_not_rounded(tmp_path: Path, vocabulary: Path) -> None:
    theirs("llama", tmp_path / "source", rope_parameters={"rope_type": "default", "rope_theta": 283461213.0})
    save_model(load_model(tmp_path / "source"), vocabulary, tmp_path / "ours")
    assert load_model(tmp_path / "ours").config == load_model(tmp_path / "source").config


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


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["consolidated"],
            "only consolidated.safetensors | fix: rename it to model.safetensors, if it holds all weights",
        ),
        (
            [f"model-{n}-of-4" for n in range(1, 5)],
            "only model-1-of-4.safetensors, model-2-of-4.safetensors, model-3-of-4.safetensors and 1 more"
            " | fix: download model.safetensors.index.json too, or rename the one with all weights",
        ),
    ],
)
def test_weights_under_other_names_are_named(folder: Path, names: list[str], message: str) -> None:
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / f"{name}.safetensors").touch()
    with pytest.raises(UserError, match=re.escape(f"model.safetensors: no such file, {message}")):
        load_model(folder)


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


def test_an_adapter_of_peft_is_told_from_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match=r"adapter_config.json: is of an adapter, not of a whole model .*merge_and_un"):
        load_model(tmp_path)


PEAK = """
import sys
from pathlib import Path
from llm.weights import families, gpt2, model_folder

def resident(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

folder = Path(sys.argv[1])
model_folder.load_model(folder / "small")  # what is loaded once stays
before = resident("VmRSS")
model = model_folder.load_model(folder / "large")
print((resident("VmHWM") - before) / (folder / "large/model.safetensors").stat().st_size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_loading_needs_little_more_memory_than_the_model(tmp_path: Path, model_config: Make, vocabulary: Path) -> None:
    for name, width in (("small", 8), ("large", 640)):  # 0.1 and 100 MB
        model_folder.save_model(GPT(model_config(n_embd=width, n_layer=5)), vocabulary, tmp_path / name)
    run = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], check=True, capture_output=True, text=True)
    assert float(run.stdout) < 1.2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_number_that_is_not_finite_is_found(value: float, kind: torch.dtype) -> None:
    tensor = torch.randn(7, 33).to(kind)
    shapes = {"w": tensor.shape}
    assert misfits({"w": tensor}, shapes, gpt2.FORMAT, "file") == []
    tensor[3, 5] = value
    assert [error.what for error in misfits({"w": tensor}, shapes, gpt2.FORMAT, "file")] == ["w holds NaN or infinity"]
