"""Memory estimates against measured peaks, and the errors and warnings if memory or disk space is short."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch

from llm.common.errors import RESOURCES, UserError
from llm.model import lora, memory
from llm.model.classifier import Classifier, freeze
from llm.model.gpt import GPT, count_parameters
from llm.model.kv_cache import KVCache
from llm.model.memory import Training
from llm.model.parts import FAMILIES
from llm.model.trainable import LoraConfig
from llm.runtime import machine
from llm.runtime.device import RuntimeConfig, cpu_has_bf16
from llm.weights.families import untie_head
from tests.forks import Forks
from tests.llm.tiny_run import MODEL
from tests.tiny import FP32, of_family

ROOT = Path(__file__).parents[3]
LORA = LoraConfig(4, 8.0, "alpha/rank")
SMALL = {"vocab_size": 2048, "context_length": 512, "n_layer": 4, "n_head": 6, "n_embd": 192, "attention": "sdpa"}
WIDE = SMALL | {"n_embd": 768, "n_head": 12}
LLAMA = {"family": "llama", "n_kv_head": 3, "qkv_bias": False}
READ = SMALL | {"n_layer": 3, "n_head": 16, "n_embd": 1024}
CASES = {
    "small": {"model": SMALL, "precision": "fp32", "rows": 8, "length": 256},
    "words": {"model": SMALL | {"vocab_size": 50257}, "precision": "bf16", "rows": 4, "length": 256},
    "logits": {
        "model": SMALL | {"vocab_size": 50257},
        "precision": "bf16",
        "rows": 4,
        "length": 256,
        "fused_loss": False,
    },
    "masked": {"model": SMALL | {"vocab_size": 50257}, "precision": "fp32", "rows": 8, "length": 512, "counting": 50},
    "eager": {"model": SMALL | {"attention": "eager"}, "precision": "fp32", "rows": 8, "length": 512},
    "micro": {"model": WIDE, "precision": "bf16", "rows": 2, "length": 128, "batch": 4},
    "best": {"model": WIDE, "precision": "fp32", "rows": 2, "length": 128, "keep": "best"},
    "lora": {"model": WIDE, "precision": "fp32", "rows": 4, "length": 128, "lora": vars(LORA)},
    "llama": {"model": WIDE | LLAMA, "precision": "fp32", "rows": 8, "length": 256},
    "llama in bf16": {"model": WIDE | LLAMA, "precision": "bf16", "rows": 8, "length": 256},
    "qwen3": {
        "model": SMALL | LLAMA | {"family": "qwen3", "n_kv_head": 2},
        "precision": "fp32",
        "rows": 8,
        "length": 512,
    },
    "llama with lora": {"model": WIDE | LLAMA, "precision": "fp32", "rows": 4, "length": 128, "lora": vars(LORA)},
    "last_block": {"model": WIDE, "precision": "fp32", "rows": 8, "length": 128, "classes": 2, "trained_blocks": 1},
}
QUICK = ("small",)  # the others are slow
TRAINING = Training(MODEL, FP32, 4, 8)


def measured(forks: Forks, folder: Path, module: str, *words: object) -> dict[str, int]:
    """The output of a module of tests.llm, run in `folder`. The memory of a fork begins with that of the first."""
    texts = [word if isinstance(word, str) else json.dumps(word) for word in words]
    paths = os.environ | {"PYTHONPATH": str(ROOT)}
    done = forks.run(folder, f"tests.llm.{module}", *texts, environment=paths)
    assert done.code == 0, done.err
    return json.loads(done.out)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize("case", [pytest.param(one, marks=[pytest.mark.slow] * (one not in QUICK)) for one in CASES])
def test_the_estimate_is_near_the_measured_peak(case, forks):
    settings = dict(CASES[case])
    if settings["precision"] == "bf16" and not cpu_has_bf16():
        settings["precision"] = "fp32"  # emulated products would take minutes
        if settings in CASES.values():
            pytest.skip("this CPU has no bf16, and the case is measured in fp32")
    seen = measured(forks, ROOT, "peak_of_training", settings)
    ratio = (seen["before"] + seen["work"]) / seen["peak"]
    print(case, f"{ratio:.2f}")
    assert 0.6 <= ratio <= 1.15


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_estimates_of_stages_without_training_are_near_the_measured_peaks(precision, forks, tmp_path):
    if precision == "bf16" and not cpu_has_bf16():
        pytest.skip("this CPU has no bf16")  # emulated products take minutes
    settings = {
        "runtime": {"precision": precision, "threads": 2, "kernels": "native"},
        "respond": {"batch_size": 32, "decoding": {"max_new_tokens": 8}},
        "import_gpt2": {"gpt2-sample": {"source": "models/instruct", "untie_head": True}},
    }
    measured(forks, tmp_path, "peak_of_reading", "make", READ, settings, 32)
    for stage in ("respond", "import_gpt2"):
        seen = measured(forks, tmp_path, "peak_of_reading", stage)
        ratio = (seen["before"] + seen["work"]) / seen["peak"]
        print(stage, precision, f"{ratio:.2f}")
        assert 0.6 <= ratio <= 1.15


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_parameters_are_those_of_the_model(tied, bias):
    config = replace(MODEL, tie_head=tied, qkv_bias=bias)
    assert memory.parameters(config) == count_parameters(GPT(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_trainable_parameters_are_those_of_the_model(family):
    model = MODEL if family == "gpt2" else of_family(family)
    assert memory.parameters(model) == count_parameters(GPT(model))
    whole = GPT(model)
    untie_head(whole)
    lora.add_lora(whole, LORA, 1)
    untied = replace(model, tie_head=False)
    assert replace(TRAINING, model=untied, lora=LORA).trainable == count_parameters(whole, trainable_only=True)
    classifier = Classifier(GPT(model), 2, "last_token")
    freeze(classifier, "last_block")
    spam = replace(TRAINING, model=model, classes=2, trained_blocks=1)
    assert spam.trainable == count_parameters(classifier, trainable_only=True)
    assert spam.parameters == count_parameters(classifier)


def test_the_best_weights_count_in_memory_and_in_every_state():
    best = replace(TRAINING, keeps_best=True)
    assert best.memory - TRAINING.memory == best.state_bytes - TRAINING.state_bytes == 4 * TRAINING.trainable


def check(work: Path) -> None:
    memory.check_training("pretrain", TRAINING, work, 10, 2)


def test_too_little_memory_is_refused_and_names_the_parameter(monkeypatch, tmp_path):
    needed = TRAINING.memory
    monkeypatch.setattr(machine, "available", lambda _device: int(0.69 * needed))
    with pytest.raises(UserError, match=r"params.yaml: pretrain.micro_batch_size: training needs about") as error:
        check(tmp_path)
    assert error.value.code == RESOURCES


@pytest.mark.parametrize(("share", "warns"), [(0.71, True), (0.99, True), (1.01, False), (None, False)])
def test_training_that_may_fit_is_not_refused(monkeypatch, tmp_path, capsys, share, warns):
    monkeypatch.setattr(machine, "available", lambda _device: share and int(share * TRAINING.memory))
    check(tmp_path)
    assert capsys.readouterr().err.startswith("warning: params.yaml: pretrain") == warns


def test_a_full_disk_is_refused_and_existing_files_count(monkeypatch, tmp_path):
    needed = 4 * TRAINING.parameters + 3 * TRAINING.state_bytes
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _path: SimpleNamespace(free=needed - 1))
    with pytest.raises(UserError, match="kB of disk space") as error:
        check(tmp_path / "not-there-yet")
    assert error.value.code == RESOURCES
    assert error.value.where == str(tmp_path / "not-there-yet")
    (tmp_path / "state").write_bytes(b"1")
    check(tmp_path)


def test_the_first_rank_checks_the_disk_for_all(monkeypatch, tmp_path):
    """What an interrupted run has saved is in the folder of the stage, not in those of the other ranks."""
    needed = 4 * TRAINING.parameters + 3 * TRAINING.state_bytes
    (tmp_path / "ranks/1").mkdir(parents=True)
    (tmp_path / "state").write_bytes(b"1" * TRAINING.state_bytes)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _path: SimpleNamespace(free=needed - 1))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, folder in (("0", tmp_path), ("1", tmp_path / "ranks/1")):
        monkeypatch.setenv("RANK", rank)
        check(folder)
    monkeypatch.setenv("RANK", "0")
    (tmp_path / "state").unlink()
    with pytest.raises(UserError, match="kB of disk space"):
        check(tmp_path)


def test_checking_is_fast(tmp_path):
    start = time.thread_time()
    for _ in range(10):
        check(tmp_path)
    assert (time.thread_time() - start) / 10 < 0.02


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("model", [MODEL, of_family("llama")], ids=["gpt2", "llama"])
def test_the_estimate_of_decoding_grows_as_the_cache_does(precision, dtype, model):
    def cache(slots: int) -> int:
        found = KVCache(model, 3, slots, torch.empty(0, dtype=dtype))
        return sum(store.nbytes for store in found.keys + found.values)

    def estimate(new: int) -> int:
        return memory.decoding(model, RuntimeConfig(precision, "cpu", 1, True, True), 3, 4, new)

    assert estimate(3) - estimate(2) == cache(7) - cache(6) > 0


def test_a_tied_head_in_fp32_is_packed_and_takes_the_memory_of_its_own():
    def estimate(tie_head: bool, precision: Literal["fp32", "bf16"]) -> int:
        runtime = RuntimeConfig(precision, "cpu", 1, True, True)
        return memory.decoding(replace(MODEL, tie_head=tie_head), runtime, 3, 4, 2)

    assert estimate(True, "fp32") == estimate(False, "fp32")
    assert estimate(False, "bf16") - estimate(True, "bf16") == 4 * MODEL.n_embd * MODEL.vocab_size  # bytes


def test_with_checkpointed_activations_a_block_adds_its_input_only():
    def activations(layers: int) -> int:
        runtime = replace(FP32, checkpoint_activations=True)
        training = Training(replace(MODEL, n_layer=layers, dropout=0.0), runtime, 4, 8)
        return training.memory - 4 * 4 * training.parameters  # weights, gradients and moments

    assert activations(9) - activations(5) == 4 * (4 * 8 * MODEL.n_embd * 4)  # layers (B, T, C), bytes
