"""Modules without numbers: the same names and shapes, nothing drawn, no compiler loaded."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from llm.model import GPT
from llm.shapes import only_shapes


def test_names_and_shapes_are_those_of_the_model_itself(model_config):
    real = GPT(model_config())
    with only_shapes():
        empty = GPT(model_config())
    assert {name: t.shape for name, t in empty.state_dict().items()} == {
        name: t.shape for name, t in real.state_dict().items()
    }
    assert {p.device.type for p in empty.parameters()} == {"meta"}


def test_what_is_made_afterwards_is_drawn_as_ever():
    torch.manual_seed(1)
    before = nn.Linear(3, 3).weight.detach()
    torch.manual_seed(1)
    with only_shapes():
        nn.Linear(5, 5)
    assert torch.equal(nn.Linear(3, 3).weight, before)


@pytest.mark.parametrize(("context", "loads"), [("only_shapes()", False), ("torch.device('meta')", True)])
def test_no_compiler_is_loaded(context, loads):
    asked = (
        "import sys, torch\nfrom llm.shapes import only_shapes\n"
        f"with {context}: torch.nn.Embedding(2, 2)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout == f"{loads}\n"
