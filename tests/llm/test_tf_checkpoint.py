"""OpenAI's TensorFlow checkpoint: what TensorFlow wrote is read to transformers' logits, and no damage goes unseen."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from llm import gpt2
from llm.checkpoint import save_model
from llm.errors import DATA, UserError, UserErrors
from llm.model import GPT, count_parameters
from llm.tf_checkpoint import DATA_FILE, FILES, FOOTER, HPARAMS, INDEX, crc32c, load_model, masked, read_index
from stages.import_gpt2 import load
from tests.llm.fixtures.write_tf_checkpoint import TINY, shapes, tensors, write

FIXTURE = Path(__file__).parent / "fixtures" / "tf_checkpoint"  # written by TensorFlow 2.21
GPT2_124M = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
IDS = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(1))
INDEX_BYTES = (FIXTURE / INDEX).read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the fixture, to damage."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "tf"))


def theirs(hparams: dict[str, int], values: dict[str, Any]) -> GPT2LMHeadModel:
    """GPT-2 of transformers with OpenAI's tensors, put in by names written out here."""
    shape = {"vocab_size": hparams["n_vocab"], "n_positions": hparams["n_ctx"]}
    model = GPT2LMHeadModel(GPT2Config(**shape, **{key: hparams[key] for key in ("n_embd", "n_head", "n_layer")}))
    body = model.transformer

    def put(module: torch.nn.Module, weight: str, bias: str | None = None) -> None:
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(values[weight]).reshape(module.weight.shape))
            if bias:
                module.bias.copy_(torch.from_numpy(values[bias]))

    put(body.wte, "model/wte")
    put(body.wpe, "model/wpe")
    put(body.ln_f, "model/ln_f/g", "model/ln_f/b")
    for number, block in enumerate(body.h):
        here = f"model/h{number}"
        put(block.ln_1, f"{here}/ln_1/g", f"{here}/ln_1/b")
        put(block.attn.c_attn, f"{here}/attn/c_attn/w", f"{here}/attn/c_attn/b")
        put(block.attn.c_proj, f"{here}/attn/c_proj/w", f"{here}/attn/c_proj/b")
        put(block.ln_2, f"{here}/ln_2/g", f"{here}/ln_2/b")
        put(block.mlp.c_fc, f"{here}/mlp/c_fc/w", f"{here}/mlp/c_fc/b")
        put(block.mlp.c_proj, f"{here}/mlp/c_proj/w", f"{here}/mlp/c_proj/b")
    return model.eval()


def logits(model: torch.nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        answer = model.eval()(ids)
    return answer if isinstance(answer, Tensor) else answer.logits


# What TensorFlow wrote


def test_checkpoint_of_tensorflow_gives_transformers_logits() -> None:
    model = load_model(FIXTURE)
    torch.testing.assert_close(logits(model), logits(theirs(TINY, tensors(TINY, 0.3))), atol=1e-4, rtol=0)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("first", "second"),
    [("model/h0/ln_1/g", "model/h0/ln_2/g"), ("model/h0/attn/c_attn/w", "model/h1/attn/c_attn/w")],
)
def test_parity_notices_two_tensors_swapped(first: str, second: str) -> None:
    values = tensors(TINY, 0.3)
    values[first], values[second] = values[second], values[first]
    assert (logits(load_model(FIXTURE)) - logits(theirs(TINY, values))).abs().max() > 1e-3


def test_parity_notices_a_matrix_not_transposed() -> None:
    values = tensors(TINY, 0.3)
    values["model/h0/attn/c_proj/w"] = values["model/h0/attn/c_proj/w"].transpose(0, 2, 1).copy()
    assert (logits(load_model(FIXTURE)) - logits(theirs(TINY, values))).abs().max() > 1e-3


def test_changing_the_model_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / DATA_FILE).read_bytes()
    with torch.no_grad():
        for parameter in load_model(folder).parameters():
            parameter.add_(1)
    assert (folder / DATA_FILE).read_bytes() == before


def test_index_of_openai_lists_the_model_whole(mirror: Path) -> None:
    entries = read_index(mirror / "gpt2-124M" / INDEX)
    assert {name: entry.shape for name, entry in entries.items()} == shapes(GPT2_124M)
    assert sum(math.prod(entry.shape) for entry in entries.values()) == 124_439_808
    ordered = sorted(entries.values(), key=lambda entry: entry.offset)
    assert [entry.offset for entry in ordered] == [sum(e.size for e in ordered[:n]) for n in range(len(ordered))]
    assert ordered[-1].offset + ordered[-1].size == 497_759_232
    assert json.loads((mirror / "gpt2-124M" / HPARAMS).read_text()) == GPT2_124M


def test_every_tensor_of_ours_has_a_name_of_openai(mirror: Path) -> None:
    config = gpt2.parse_hparams(GPT2_124M, HPARAMS)
    with torch.device("meta"):
        names = GPT(config).state_dict().keys() - {gpt2.HEAD}
    assert {gpt2.openai_name(name) for name in names} == read_index(mirror / "gpt2-124M" / INDEX).keys()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="pip install .[tensorflow]")
def test_full_size_checkpoint_of_tensorflow_gives_transformers_logits(tmp_path: Path) -> None:
    values = tensors(GPT2_124M, 0.05)
    write(tmp_path, GPT2_124M, values)
    assert (tmp_path / DATA_FILE).stat().st_size == 497_759_232
    ids = torch.randint(50257, (1, 64), generator=torch.Generator().manual_seed(1))
    model = load_model(tmp_path)
    assert count_parameters(model) == 124_439_808
    ours, reference = logits(model, ids), logits(theirs(GPT2_124M, values), ids)
    print(f"largest difference {(ours - reference).abs().max():.2e}, largest logit {reference.abs().max():.2f}")
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=0)


# The stage


def test_stage_recognises_either_layout(tmp_path: Path, vocabulary: Path) -> None:
    model = load(FIXTURE)
    save_model(model, vocabulary, tmp_path)
    again = load(tmp_path)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_folder_with_both_layouts_is_refused(folder: Path, vocabulary: Path) -> None:
    save_model(load_model(folder), vocabulary, folder)
    with pytest.raises(UserError, match=r"holds two layouts: hparams.json.* beside config.json, model.safetensors"):
        load(folder)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match="no such file") as caught:
        load(folder)
    assert (caught.value.where, caught.value.code) == (str(folder / name), DATA)


def test_empty_folder_is_asked_for_the_usual_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.json: no such file"):
        load(tmp_path)


# Checksums


def slow_crc32c(data: bytes) -> int:
    """As the standard defines it, bit by bit."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def fast_crc32c(data: bytes) -> int:
    return crc32c(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    ("data", "crc"),  # RFC 3720, appendix B.4, and the usual check value
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc32c_of_published_examples(data: bytes, crc: int) -> None:
    assert fast_crc32c(data) == slow_crc32c(data) == crc


@pytest.mark.parametrize("size", [4, 5, 4095, 8191, 8192, 8193, 16384, 40001])
def test_crc32c_in_lanes_is_the_crc32c(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert fast_crc32c(data) == slow_crc32c(data)


def test_mask_is_the_one_of_leveldb() -> None:
    assert masked(0) == 0xA282EAD8
    assert masked(0x12345678) == ((0x12345678 >> 15 | 0x12345678 << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF
