"""Dropout with four elements to a random number: the same distribution, scale and gradient as PyTorch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llm.model.dropout import Dropout, packed_dropout
from llm.model.gpt import GPT


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_so_many_are_dropped_and_the_others_grow_by_what_is_missing(rate):
    torch.manual_seed(0)
    x = torch.full((1000, 1001), 3.0)
    y = packed_dropout(x, rate)
    assert y.shape == x.shape
    dropped = (y == 0).float().mean().item()
    assert abs(dropped - rate) < 4 * (rate * (1 - rate) / x.numel()) ** 0.5
    kept = y[y != 0]
    assert (kept == kept[0]).all()
    assert kept[0].item() == pytest.approx(3 / (1 - rate), rel=2e-4)
    assert y.mean().item() == pytest.approx(F.dropout(x, rate).mean().item(), rel=0.01)


def test_the_four_elements_of_a_number_are_dropped_independently():
    torch.manual_seed(0)
    kept = (packed_dropout(torch.ones(200_000, 4), 0.5) != 0).float()
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.01  # 4.5 standard deviations
    neighbours = torch.stack([kept.flatten()[:-1], kept.flatten()[1:]])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.01


def test_the_gradient_passes_where_the_element_did():
    torch.manual_seed(0)
    x = torch.randn(7, 13, requires_grad=True)
    y = packed_dropout(x, 0.3)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x, y)


def test_at_a_rate_next_to_1_next_to_nothing_is_kept():
    torch.manual_seed(0)
    assert (packed_dropout(torch.ones(1000), 1 - 1e-9) != 0).sum() < 5


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 0])
def test_every_size_will_do(size):
    assert packed_dropout(torch.ones(size), 0.5).shape == (size,)


def test_the_seed_decides_and_the_type_stays():
    def drawn(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        torch.manual_seed(seed)
        return packed_dropout(torch.ones(64, dtype=dtype), 0.5)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert drawn(1, torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(drawn(1, torch.bfloat16).float(), drawn(1))


def test_only_training_drops_and_without_packing_it_is_pytorchs():
    x = torch.ones(1000)
    for packed in (False, True):
        assert Dropout(0.5, packed).eval()(x) is x
        assert Dropout(0.0, packed)(x) is x
        assert (Dropout(0.5, packed)(x) == 0).any()
    torch.manual_seed(1)
    ours = Dropout(0.5, packed=False)(x)
    torch.manual_seed(1)
    assert torch.equal(ours, F.dropout(x, 0.5))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_all_dropout_of_a_model_is_of_its_kind(monkeypatch, model_config, attention):
    ids = torch.randint(300, (1, 8))
    monkeypatch.setattr(F, "dropout", None)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    GPT(model_config(dropout=0.1, attention=attention, dropout_random="packed")).train()(ids)
    with pytest.raises(TypeError):
        GPT(model_config(dropout=0.1, attention=attention, dropout_random="each")).train()(ids)
