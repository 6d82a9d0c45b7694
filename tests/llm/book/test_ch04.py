"""Chapters 4 and 5 in small: printed numbers, and the core's parts against the written-out ones."""

import pytest
import torch
import torch.nn.functional as F

from llm.book import ch04
from llm.generate.decoding import DecodingConfig, choose
from llm.model.gpt import Block


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
    without = [round(value, 6) for value in ch04.mean_gradients(shortcuts=False)]
    assert without == [0.000202, 0.000120, 0.000715, 0.001399, 0.005050]
    assert four(ch04.mean_gradients(shortcuts=True)) == [0.2217, 0.2069, 0.3290, 0.2666, 1.3259]


def test_a_block_of_the_core_has_the_books_feed_forward(model_config):
    book, core = ch04.FeedForward(8), Block(model_config(), 0).mlp
    x = torch.randn(2, 3, 8)
    core.load_state_dict(dict(zip(core.state_dict(), book.state_dict().values(), strict=True)))
    torch.testing.assert_close(core(x), book(x))


def test_flops_are_two_a_weight_and_token():
    per_block = 12 * 768 * 768
    assert ch04.forward_flops("124M", rows=1, tokens=1) == 2 * (12 * per_block + 768 * 50257)
    assert ch04.forward_flops("124M", rows=2, tokens=3) == 6 * ch04.forward_flops("124M", rows=1, tokens=1)


@pytest.mark.parametrize(
    ("temperature", "counts"),
    [
        (1, [73, 0, 0, 582, 2, 0, 0, 343, 0]),
        (0.1, [0, 0, 0, 985, 0, 0, 0, 15, 0]),
        (5, [165, 75, 42, 239, 71, 46, 32, 227, 103]),
    ],
)
def test_draws_by_temperature(temperature, counts):
    assert ch04.draw_counts(temperature) == counts


def test_exact_probability_of_pizza():
    probability = ch04.with_temperature(torch.tensor(ch04.LOGITS), 5)[ch04.WORDS.index("pizza")]
    assert round(float(probability), 4) == 0.0430


def test_top_k_keeps_the_likeliest():
    kept = ch04.top_k_logits(torch.tensor(ch04.LOGITS), 3)
    assert [ch04.WORDS[i] for i in kept.isfinite().nonzero().flatten()] == ["closer", "forward", "toward"]
    assert four(kept.softmax(dim=-1)[kept.isfinite()]) == [0.0615, 0.5775, 0.3610]


def test_the_core_samples_as_the_book_does():
    logits = torch.tensor(ch04.LOGITS)
    torch.manual_seed(123)
    book = [int(torch.multinomial(ch04.top_k_logits(logits, 3).div(1.4).softmax(-1), 1)) for _ in range(50)]
    generator = torch.Generator().manual_seed(123)
    config = DecodingConfig(max_new_tokens=1, temperature=1.4, top_k=3, top_p=None)
    assert [int(choose(logits[None], config, [generator])) for _ in range(50)] == book
    assert len(set(book)) == 3
