"""GPT-2 before training: printed parameter counts, and the printed loss of six tokens."""

import math

import pytest
import torch

from llm.book.ch04 import CONFIGS, GPT_CONFIG_124M, GPTModel
from llm.book.ch05 import toy_loss
from llm.model.gpt import count_parameters


@pytest.mark.parametrize(
    ("size", "untied", "tied"),
    [
        ("124M", 163_009_536, 124_439_808),
        ("355M", 406_212_608, 354_823_168),
        ("774M", 838_220_800, 774_030_080),
        ("1558M", 1_637_792_000, 1_557_611_200),
    ],
)
def test_parameters_of_gpt2(size, untied, tied):
    with torch.device("meta"):
        assert count_parameters(GPTModel(CONFIGS[size])) == untied
        assert count_parameters(GPTModel(CONFIGS[size] | {"qkv_bias": True}, tie_head=True)) == tied


@pytest.mark.slow
def test_loss_of_six_tokens():
    torch.manual_seed(123)
    _, loss = toy_loss(GPTModel(GPT_CONFIG_124M | {"context_length": 256}))
    assert (round(loss, 4), round(math.exp(loss), 2)) == (10.7940, 48725.82)
