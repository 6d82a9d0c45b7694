"""Modules on the meta device: names, shapes, and no import of the compiler."""

import subprocess
import sys

import pytest

from llm.model.gpt import GPT
from llm.model.meta import on_meta_device


def test_names_and_shapes_are_those_of_a_real_model(model_config):
    real = GPT(model_config())
    with on_meta_device():
        empty = GPT(model_config())
    assert {name: t.shape for name, t in empty.state_dict().items()} == {
        name: t.shape for name, t in real.state_dict().items()
    }
    assert {p.device.type for p in empty.parameters()} == {"meta"}


@pytest.mark.slow
@pytest.mark.parametrize("init", ["gpt2", "torch"])
@pytest.mark.parametrize(("context", "loads"), [("on_meta_device()", False), ("torch.device('meta')", True)])
def test_no_compiler_is_loaded(context, loads, init, model_config):
    """If torch.device alone no longer imports it either, `on_meta_device` can go."""
    asked = (
        "import sys, torch\nfrom llm.model.gpt import GPT, ModelConfig\nfrom llm.model.meta import on_meta_device\n"
        "from llm.model.parts import Parts\n"
        f"with {context}: GPT({model_config(init=init)!r})\n"
        "print('torch._dynamo' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout == f"{loads}\n"
