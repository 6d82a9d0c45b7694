"""Chapter 3: each step gives the printed numbers, and the pipeline's attention equals the last step."""

from functools import partial

import pytest
import torch

from llm.book.ch03 import (
    INPUTS,
    CausalAttention,
    MultiHeadAttention,
    MultiHeadAttentionWrapper,
    SelfAttention_v1,
    SelfAttention_v2,
    simple_attention,
)
from llm.model.gpt import Attention

X = torch.tensor(INPUTS)  # (T, D)
BATCH = torch.stack([X, X])  # (B, T, D)


def printed(values: torch.Tensor) -> list:
    """With four decimal places, as in the book."""
    return torch.round(values.detach() * 10_000).long().tolist()


def at_seed(seed: int, make) -> torch.nn.Module:
    torch.manual_seed(seed)
    return make()


def test_simple_attention_of_the_second_word():
    sourss, weights, contexts = simple_attention(X)
    assert printed(sourss[1]) == [9544, 14950, 14754, 8434, 7070, 10865]
    assert printed(weights[1]) == [1385, 2379, 2333, 1240, 1082, 1581]
    assert printed(contexts[1]) == [4419, 6515, 5683]


@pytest.mark.parametrize(
    ("seed", "make", "x", "first"),
    [
        (123, lambda: SelfAttention_v1(3, 2), X, [2996, 8053]),
        (789, lambda: SelfAttention_v2(3, 2), X, [-739, 713]),
        (123, lambda: CausalAttention(3, 2, 6, 0.0), BATCH, [-4519, 2216]),
        (123, lambda: MultiHeadAttentionWrapper(3, 2, 6, 0.0, 2), BATCH, [-4519, 2216, 4772, 1063]),
        (123, lambda: MultiHeadAttention(3, 2, 6, 0.0, 2), BATCH, [3190, 4858]),
    ],
)
def test_first_row_of_every_step(seed, make, x, first):
    out = at_seed(seed, make)(x)
    assert printed(out.flatten(0, -2)[0]) == first
    assert printed(at_seed(seed + 1, make)(x).flatten(0, -2)[0]) != first


def test_exercise_3_1_equal_weights_give_equal_outputs():
    v1, v2 = SelfAttention_v1(3, 2), SelfAttention_v2(3, 2)
    assert not torch.allclose(v1(X), v2(X))
    v1.take_weights(v2)
    torch.testing.assert_close(v1(X), v2(X))


def test_exercise_3_2_two_heads_of_width_one_make_two_columns():
    assert MultiHeadAttentionWrapper(3, 1, 6, 0.0, 2)(BATCH).shape == (2, 6, 2)


@pytest.mark.parametrize("make", [CausalAttention, partial(MultiHeadAttention, num_heads=2)])
def test_a_causal_row_does_not_depend_on_later_ones(make):
    attention = make(3, 2, 6, 0.0)
    changed = BATCH.clone()
    changed[:, 4:] += 1
    before, after = attention(BATCH), attention(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_dropout_thins_the_weights_in_training_only():
    attention = CausalAttention(3, 2, 6, 0.5)
    assert not torch.equal(attention(BATCH)[0], attention(BATCH)[1])
    attention.eval()
    assert torch.equal(attention(BATCH)[0], attention(BATCH)[1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("bias", [True, False])
def test_the_pipelines_attention_is_the_last_step(attention, bias, model_config):
    torch.manual_seed(1)
    book = MultiHeadAttention(8, 8, 16, 0.0, 2, qkv_bias=bias)
    ours = Attention(model_config(attention=attention, qkv_bias=bias), layer=0)
    parts = (book.W_query, book.W_key, book.W_value)
    state = {"c_attn.weight": torch.cat([part.weight for part in parts])}
    state |= {"c_attn.bias": torch.cat([part.bias for part in parts])} if bias else {}
    state |= {"c_proj.weight": book.out_proj.weight, "c_proj.bias": book.out_proj.bias}
    x = torch.randn(2, 5, 8)
    assert not torch.allclose(ours(x, None, None, None), book(x))
    ours.load_state_dict(state)
    torch.testing.assert_close(ours(x, None, None, None), book(x))
