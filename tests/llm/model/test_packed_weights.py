"""Packed weights: the same products, texts and evaluations as with unpacked ones."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llm.generate.config import greedy
from llm.generate.decoding import generate
from llm.model import packed_weights
from llm.model.gpt import GPT, MLP
from llm.model.lora import LoraLinear, add_lora
from llm.model.packed_weights import (
    PackedLinear,
    PackedMLP,
    adds_in_one_order,
    can_pack_bf16,
    can_pack_fp32,
    pack_for_decoding,
    packed_copy,
)
from llm.model.trainable import LoraConfig
from llm.runtime.device import autocast
from tests.tiny import BF16, FP32

GREEDY = greedy(8)
PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]

needs_onednn = pytest.mark.skipif(not can_pack_bf16(), reason="oneDNN has no bf16 on this CPU")
needs_avx2 = pytest.mark.skipif(not can_pack_fp32(), reason="fp32 is packed for AVX2 only")
PORTABLE = replace(FP32, kernels="portable")  # packs small matrices too


@pytest.fixture
def gpt(model_config):
    torch.manual_seed(0)
    model = GPT(model_config(n_embd=32, init="torch")).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(8)  # separates the most likely tokens, so that rounding does not decide
    return model


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 16])
def test_a_packed_linear_equals_an_unpacked_one(rows, bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(48, 80, bias=bias), torch.randn(rows, 3, 48).bfloat16()
    weight, offset = linear.weight.bfloat16(), None if linear.bias is None else linear.bias.bfloat16()
    found = PackedLinear(linear, rows)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, F.linear(x, weight, offset), rtol=2e-2, atol=2e-2)
    wrong = F.linear(x, weight.flip(0), offset)  # control
    assert (found - wrong).abs().max() > 0.5


@needs_onednn
@pytest.mark.parametrize("rows", [1, 16])
def test_a_packed_mlp_applies_gelu_after_its_first_product(model_config, rows):
    torch.manual_seed(0)
    mlp, x = MLP(model_config(n_embd=32)).bfloat16(), 4 * torch.randn(rows, 3, 32).bfloat16()
    with torch.no_grad():
        found, exact = PackedMLP(mlp, rows)(x).float(), copy.deepcopy(mlp).float()(x.float())
        rounded, ungated = mlp(x).float(), mlp.c_proj(mlp.c_fc(x)).float()
    assert (found - exact).norm() <= 1.05 * (rounded - exact).norm()  # as close to fp32 as the unfused bf16 MLP
    assert (ungated - exact).norm() > 20 * (rounded - exact).norm()  # control


@needs_onednn
def test_every_linear_is_packed_once_but_not_the_embedding(gpt):
    kinds = [type(module) for module in pack_for_decoding(gpt, BF16, 4).modules()]
    assert nn.Linear not in kinds
    assert kinds.count(PackedMLP) == 2
    assert kinds.count(PackedLinear) == 2 * 4 + 1
    assert gpt.transformer.wte.weight.dtype == torch.bfloat16


@needs_onednn
def test_lora_survives_packing(gpt):
    add_lora(gpt, LoraConfig(rank=2, alpha=4, scaling="alpha/rank"), seed=1)
    for module in gpt.modules():
        if isinstance(module, LoraLinear):
            nn.init.normal_(module.lora_B)
    expected = gpt(torch.tensor([PROMPTS[0]]))
    found = pack_for_decoding(gpt, BF16, 1)(torch.tensor([PROMPTS[0]])).float()
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_the_text_equals_that_of_unpacked_bf16_weights(gpt, model_config, monkeypatch):
    torch.manual_seed(0)
    other = GPT(model_config(n_embd=32, init="torch")).eval()
    other.load_state_dict(gpt.state_dict())
    monkeypatch.setattr(packed_weights, "can_pack_bf16", lambda: False)
    plain = pack_for_decoding(other, BF16, 3)
    assert PackedLinear not in [type(module) for module in plain.modules()]
    monkeypatch.undo()
    packed = pack_for_decoding(gpt, BF16, 3)
    assert generate(packed, PROMPTS, GREEDY, ()) == generate(plain, PROMPTS, GREEDY, ())


@needs_onednn
def test_a_packed_copy_has_the_current_weights(gpt):
    def off(found: torch.Tensor) -> float:
        return float((found - expected).norm() / expected.norm())

    ids = torch.tensor(PROMPTS[:1])
    with torch.no_grad(), autocast(BF16):
        expected, found = gpt(ids).float(), packed_copy(gpt, BF16, 1)(ids)
        nn.init.normal_(gpt.transformer.h[1].mlp.c_proj.weight)
        later = packed_copy(gpt, BF16, 1)(ids)
    assert found.dtype == torch.bfloat16
    assert off(found) < 0.01
    assert off(later) > 0.1  # control


@needs_onednn
def test_a_model_can_train_after_a_packed_copy(gpt):
    before, kinds = copy.deepcopy(gpt.state_dict()), [type(module) for module in gpt.modules()]
    packed = packed_copy(gpt, BF16, 1)
    assert [type(module) for module in packed.modules()].count(PackedLinear) == 2 * 4 + 1
    assert [type(module) for module in gpt.modules()] == kinds
    assert all(torch.equal(before[name], tensor) for name, tensor in gpt.state_dict().items())
    assert {id(parameter) for parameter in packed.parameters()} < {id(parameter) for parameter in gpt.parameters()}
    gpt(torch.tensor([PROMPTS[0]])).sum().backward()
    assert all(parameter.grad is not None for parameter in gpt.parameters())


def test_without_packing_the_copy_is_the_model_itself(gpt, monkeypatch):
    assert packed_copy(gpt.transformer, BF16, 1) is gpt.transformer
    assert packed_copy(gpt, replace(BF16, device="cuda"), 1) is gpt
    assert packed_copy(gpt, FP32, 1) is gpt
    monkeypatch.setattr(packed_weights, "can_pack_bf16", lambda: False)
    assert packed_copy(gpt, BF16, 1) is gpt


@needs_avx2
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_fp32_linear_equals_an_unpacked_one(bias):
    torch.manual_seed(0)
    linear, x = nn.Linear(48, 80, bias=bias), torch.randn(5, 3, 48)
    packed = nn.Sequential(linear)
    pack_for_decoding(packed, PORTABLE, 1)
    assert type(packed[0]) is PackedLinear
    torch.testing.assert_close(packed(x), F.linear(x, linear.weight, linear.bias), rtol=1e-5, atol=1e-6)


@needs_avx2
@pytest.mark.parametrize("size", [(48, 80), (192, 576), (768, 2304)])
def test_packed_fp32_gives_the_same_bits_for_any_number_of_rows(size):
    torch.manual_seed(0)
    packed, x = pack_for_decoding(nn.Sequential(nn.Linear(*size)), PORTABLE, 1), torch.randn(64, size[0])
    all_rows = packed(x)
    for rows in (1, 2, 3, 7, 8, 16, 31):
        assert torch.equal(packed(x[:rows].clone()), all_rows[:rows]), rows


@needs_avx2
def test_large_fp32_matrices_are_packed_and_small_ones_with_portable_kernels(gpt, model_config):
    large = GPT(model_config(n_embd=512, n_layer=1))
    kinds = [type(module) for module in pack_for_decoding(large, FP32, 1).modules()]
    assert kinds.count(PackedLinear) == 4  # all but the head, whose vocabulary is tiny
    assert kinds.count(nn.Linear) == 1
    assert not adds_in_one_order(large)
    expected = gpt(torch.tensor(PROMPTS[:1]))
    assert nn.Linear not in [type(module) for module in pack_for_decoding(gpt, PORTABLE, 1).modules()]
    assert adds_in_one_order(gpt)
    torch.testing.assert_close(gpt(torch.tensor(PROMPTS[:1])), expected, rtol=1e-4, atol=1e-5)


@needs_avx2
def test_the_text_equals_that_of_unpacked_fp32_weights(gpt):
    expected = generate(gpt, PROMPTS, GREEDY, ())
    assert generate(pack_for_decoding(gpt, PORTABLE, 3), PROMPTS, GREEDY, ()) == expected


def test_small_matrices_stay_as_they_are(gpt):
    before = {name: tensor.clone() for name, tensor in gpt.state_dict().items()}
    after = pack_for_decoding(gpt, FP32, 4).state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    assert len(before) == len(after)
    assert not adds_in_one_order(gpt)
