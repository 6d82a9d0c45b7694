"""The parts of later families in training and decoding: classifier, frozen blocks, LoRA, bf16, compiled passes."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llm.data.batches import Batch, SequentialBatches
from llm.data.spam_dataset import SpamDataset
from llm.data.tokenizer import Tokenizer
from llm.evaluate.accuracy import predict
from llm.generate.config import greedy
from llm.generate.decoding import generate
from llm.model import packed_weights
from llm.model.classifier import Classifier, freeze
from llm.model.config import ModelParams
from llm.model.gpt import GPT, SwiGLU
from llm.model.lora import LoraLinear, add_lora, merge_lora
from llm.model.packed_weights import can_pack_bf16, pack_for_decoding, packed_copy
from llm.model.parts import FAMILIES, Family
from llm.model.rope import rotation
from llm.model.trainable import LoraConfig
from llm.runtime.device import autocast
from llm.train import fused_loss, losses
from llm.train.compiled import COMPILERS, CompiledNextToken
from llm.train.frozen_blocks import UpperBlocks, compute
from tests.tiny import BF16, FP32, of_family

LATER: list[Any] = [family for family in FAMILIES if family != "gpt2"]
IDS = torch.randint(300, (3, 12), generator=torch.Generator().manual_seed(1))
LORA = LoraConfig(4, 8.0, "alpha/rank")
families = pytest.mark.parametrize("family", LATER)


def spread(module: nn.Module, scale: float = 0.3) -> None:
    """Make the weights large enough for every part to matter."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)


def make(family: Family, **changes: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(of_family(family, **changes))
    spread(model)
    return model.eval()


# Rotary positions


def test_a_score_depends_on_the_distance_alone() -> None:
    model = make("llama", n_layer=1)
    shifted = torch.zeros(3, 17, dtype=torch.long)
    shifted[:, 5:] = IDS
    with torch.no_grad():
        plain = model(IDS)
        x, turned = model.transformer.embed(IDS), rotation(model.config, torch.arange(100, 112))
        moved = model.lm_head(model.transformer.ln_f(model.transformer.h[0](x, None, None, turned)))
        torch.testing.assert_close(moved, plain, atol=1e-4, rtol=1e-4)
        unturned = rotation(model.config, torch.zeros(12, dtype=torch.long))
        other = model.lm_head(model.transformer.ln_f(model.transformer.h[0](x, None, None, unturned)))
    assert (other - plain).abs().max() > 1e-3  # control: all at one position


@families
def test_later_tokens_do_not_change_earlier_logits(family: Family) -> None:
    model, changed = make(family), IDS.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 300
    before, after = model(IDS), model(changed)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert (before[:, 6:] - after[:, 6:]).abs().amax(-1).min() > 1e-3


# Classifiers and frozen blocks


@families
@pytest.mark.parametrize("position", ["last_token", "mean", "first"])
@pytest.mark.parametrize("trainable", ["head", "last_block", "last_two_blocks"])
def test_scores_above_frozen_blocks_equal_those_of_the_whole_model(
    family: Family, position: Any, trainable: Any, vocabulary: Path, tmp_path: Path
) -> None:
    model = Classifier(make(family), 2, position, 12)
    freeze(model, trainable)
    spread(model.score)
    texts = ["win", "the quick brown fox", "Every effort moves you", "", "lazy dogs, 12"]
    messages = SpamDataset([0, 1, 0, 1, 0], texts, Tokenizer.load(vocabulary), limit=16)
    messages.width = 12
    frozen = 3 - {"head": 0, "last_block": 1, "last_two_blocks": 2}[trainable]
    states = compute(model, frozen, messages, FP32, tmp_path)
    expected = predict(model, SequentialBatches(messages, 3), FP32)
    found = predict(UpperBlocks(model, frozen), SequentialBatches(states, 3), FP32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@families
def test_the_head_of_a_family_without_biases_has_none(family: Family) -> None:
    assert Classifier(make(family), 2, "last").score.bias is None


# LoRA


@families
def test_lora_has_no_effect_before_training_and_merges_exactly(family: Family) -> None:
    model = make(family, tie_head=False)
    before = model(IDS)
    add_lora(model, LORA, seed=1)
    assert torch.equal(model(IDS), before)
    for module in model.modules():
        if isinstance(module, LoraLinear):
            nn.init.normal_(module.lora_B, std=0.1)
    after = model(IDS)
    assert (after - before).abs().max() > 1e-3
    merge_lora(model)
    torch.testing.assert_close(model(IDS), after, atol=1e-4, rtol=1e-4)


def test_an_update_of_keys_changes_only_the_keys() -> None:
    attention, x = make("llama").transformer.h[0].attn, torch.randn(2, 5, 24)
    before = attention.c_attn(x).split([24, 12, 12], dim=-1)
    add_lora(attention, LORA, seed=1)
    path = attention.c_attn
    assert path.lora_A.shape == (3, 24, 4)
    assert path.lora_B.shape == (4, 48)
    with torch.no_grad():
        path.lora_B[:, 24:36] = torch.randn(4, 12)
    for layer in (path, path.merged()):
        q, k, v = layer(x).split([24, 12, 12], dim=-1)
        torch.testing.assert_close(k, before[1] + 2.0 * x @ path.lora_A[1] @ path.lora_B[:, 24:36])
        assert torch.equal(q, before[0])
        assert torch.equal(v, before[2])


# bf16 and packed weights


@families
def test_bf16_passes_are_close_to_fp32(family: Family) -> None:
    model = make(family)
    expected = model(IDS)
    with torch.no_grad(), autocast(BF16):
        found, copied = model(IDS).float(), packed_copy(model, BF16, 4)(IDS).float()
    decoded = pack_for_decoding(copy.deepcopy(model), BF16, 1)(IDS).float()
    for one in (found, copied, decoded):
        assert (one - expected).norm() < 0.05 * expected.norm()


@families
def test_packed_decoding_gives_the_text_of_unpacked_weights(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompts = make(family), [[5, 6, 7], [8, 9]]
    with torch.no_grad():
        model.lm_head.weight.mul_(8)  # separates the most likely tokens, so that rounding does not decide
    packed = pack_for_decoding(copy.deepcopy(model), BF16, 2)
    if can_pack_bf16():
        assert not any(type(module) is nn.Linear for module in packed.modules())
    monkeypatch.setattr(packed_weights, "can_pack_bf16", lambda: False)
    plain = pack_for_decoding(model, BF16, 2)
    assert generate(packed, prompts, greedy(6), ()) == generate(plain, prompts, greedy(6), ())


# Compiled passes


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler here")
@pytest.mark.parametrize("family", [pytest.param("llama", marks=pytest.mark.long), "qwen3"])
def test_compiled_passes_equal_plain_ones(family: Family) -> None:
    model, batch = make(family).train(), Batch(IDS[:, :-1], IDS[:, 1:])
    results = []
    for loss in (losses.next_token, CompiledNextToken(model, True)):
        model.zero_grad()
        total = loss(model, batch)["loss"]
        total.backward()
        results.append((total.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@families
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler here")
def test_the_parts_of_a_compiled_pass_make_the_whole(family: Family) -> None:
    model, batch = make(family).train(), Batch(IDS[:, :-1], IDS[:, 1:])
    loss = CompiledNextToken(model, True)
    loss._blocks, loss._chunk_loss = list(model.transformer.h), fused_loss.loss_to_compile  # uncompiled
    torch.testing.assert_close(loss(model, batch)["loss"], losses.next_token(model, batch)["loss"])


# Configuration


def params(family: Family, **changes: Any) -> ModelParams:
    names = ModelParams.__dataclass_fields__
    return ModelParams(**{name: vars(of_family(family, **changes))[name] for name in names})


@families
def test_the_section_names_the_parts_of_the_family(family: Family) -> None:
    section = params(family)
    assert not list(section.problems())
    assert section.config(300) == of_family(family)
    assert isinstance(GPT(section.config(300)).transformer.h[0].mlp, SwiGLU)


def test_swiglu_has_about_as_many_parameters_as_gelu() -> None:
    assert of_family("llama", n_embd=192).n_inner == 512
    assert of_family("llama", n_embd=200).n_inner == 576  # rounded up to a multiple of 64


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n_kv_head": 3}, "n_kv_head"),
        ({"n_kv_head": 0}, "n_kv_head"),
        ({"n_embd": 12}, "n_embd"),  # heads of 3
        ({"n_embd": 26}, "n_embd"),
        ({"qkv_bias": True}, "qkv_bias"),
        ({"family": "qwen2"}, "qkv_bias"),
        ({"family": "gpt2"}, "n_kv_head"),
        ({"n_layer": 2**25}, "n_layer"),
    ],
    ids=str,
)
def test_impossible_sections_are_problems(changes: dict[str, Any], field: str) -> None:
    assert field in [name for name, *_ in replace(params("llama"), **changes).problems()]
