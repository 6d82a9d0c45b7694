"""What pretraining prints on the way."""

from types import SimpleNamespace

import pytest
import torch

from llm.model import GPT
from llm.runtime import RuntimeConfig
from llm.tokenizer import Tokenizer
from stages.pretrain import continue_text

PROMPT = SimpleNamespace(sample_prompt="Every effort", sample_tokens=3)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_samples_are_drawn_in_the_precision_of_the_training(precision, dtype, vocabulary, model_config):
    tokenizer = Tokenizer.load(vocabulary)
    model = GPT(model_config(vocab_size=tokenizer.vocab_size))
    seen = []
    model.lm_head.register_forward_hook(lambda _model, _given, logits: seen.append(logits.dtype))
    text = continue_text(model, tokenizer, PROMPT, RuntimeConfig(precision, "cpu", threads=1, keep_pages=False))
    assert text.startswith(PROMPT.sample_prompt)
    assert seen == [dtype] * 3
    assert {p.dtype for p in model.parameters()} == {torch.float32}
