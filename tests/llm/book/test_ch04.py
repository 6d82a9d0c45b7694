"""Chapter 4: printed numbers, PyTorch's norm and GELU, and the pipeline's decoding."""

import torch
import torch.nn.functional as F

from llm.book import ch04
from llm.generate import decoding
from llm.generate.config import greedy
from llm.model.gpt import GPT


def four(values) -> list[float]:
    return [round(float(value), 4) for value in values]


def test_layer_norm_demo():
    out, normed = ch04.layer_norm_demo()
    assert four(out.mean(dim=-1)) == [0.1324, 0.2170]
    assert four(out.var(dim=-1)) == [0.0231, 0.0398]
    assert four(normed.mean(dim=-1).abs()) == [0.0, 0.0]
    assert four(normed.var(dim=-1)) == [1.0, 1.0]


def test_layer_norm_is_torchs():
    x = torch.randn(3, 7)
    torch.testing.assert_close(ch04.LayerNorm(7)(x), F.layer_norm(x, (7,)))


def test_gelu_is_torchs_tanh_approximation():
    x = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(ch04.GELU()(x), F.gelu(x, approximate="tanh"))
    assert not torch.equal(ch04.GELU()(x), F.gelu(x))


def test_gradients_with_and_without_shortcuts():
    without = [round(value, 6) for value in ch04.mean_gradients(use_shortcut=False)]
    assert without == [0.000202, 0.000120, 0.000715, 0.001399, 0.005050]
    assert four(ch04.mean_gradients(use_shortcut=True)) == [0.2217, 0.2069, 0.3290, 0.2666, 1.3259]


def test_flops_are_two_a_weight_and_token():
    per_block = 12 * 768 * 768
    assert ch04.forward_flops("124M", rows=1, tokens=1) == 2 * (12 * per_block + 768 * 50257)
    assert ch04.forward_flops("124M", rows=2, tokens=3) == 6 * ch04.forward_flops("124M", rows=1, tokens=1)


def test_generate_text_simple_is_greedy_decoding(model_config):
    torch.manual_seed(2)
    model = GPT(model_config(init="torch", tie_head=False)).eval()
    prompt = [7, 250, 31]
    ids = ch04.generate_text_simple(model, torch.tensor([prompt]), max_new_tokens=13, context_size=16)
    new = decoding.generate(model, [prompt], greedy(13), stops=())[0]
    assert ids.tolist() == [prompt + new]
    assert len(set(new)) > 2  # a constant would pass otherwise


def test_generate_text_simple_drops_the_oldest_tokens(model_config):
    torch.manual_seed(2)
    model = GPT(model_config(init="torch")).eval()
    ids = torch.arange(20)[None]  # the context has room for 16
    expected = model(ids[:, 4:])[0, -1].argmax()
    assert ch04.generate_text_simple(model, ids, max_new_tokens=1, context_size=16)[0, -1] == expected


def test_gpt_model_is_the_pipelines_gpt():
    config = {**ch04.GPT_CONFIG_124M, "vocab_size": 50, "context_length": 8, "emb_dim": 12, "n_heads": 3, "n_layers": 2}
    shape = ch04.GPTModel(config | {"drop_rate": 0.2, "qkv_bias": True}).config
    assert (shape.vocab_size, shape.context_length, shape.n_embd, shape.n_head, shape.n_layer) == (50, 8, 12, 3, 2)
    assert (shape.dropout, shape.embedding_rate, shape.attention_rate, shape.qkv_bias) == (0.2, 0.2, 0.2, True)
