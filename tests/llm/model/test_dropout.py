"""Dropout with one random number for four elements: distribution, scale and gradient as in PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llm.model.dropout import Dropout, packed_dropout
from llm.model.gpt import GPT


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_dropped_and_the_others_are_scaled_up(rate):
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


def test_the_four_elements_of_one_number_are_dropped_independently():
    torch.manual_seed(0)
    kept = (packed_dropout(torch.ones(200_000, 4), 0.5) != 0).float()
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.01  # 4.5 standard deviations
    neighbours = torch.stack([kept.flatten()[:-1], kept.flatten()[1:]])
    assert torch.corrcoef(neighbours)[0, 1].abs() < 0.01


def test_gradients_pass_only_through_kept_elements():
    torch.manual_seed(0)
    x = torch.randn(7, 13, requires_grad=True)
    y = packed_dropout(x, 0.3)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x, y)


def test_at_a_rate_close_to_1_almost_nothing_is_kept():
    torch.manual_seed(0)
    assert (packed_dropout(torch.ones(1000), 1 - 1e-9) != 0).sum() < 5


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 0])
def test_any_number_of_elements_works(size):
    assert packed_dropout(torch.ones(size), 0.5).shape == (size,)


def test_the_seed_decides_and_the_dtype_is_kept():
    def drawn(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        torch.manual_seed(seed)
        return packed_dropout(torch.ones(64, dtype=dtype), 0.5)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert drawn(1, torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(drawn(1, torch.bfloat16).float(), drawn(1))


def test_only_training_drops_and_unpacked_is_pytorchs_dropout():
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
def test_all_dropout_layers_of_a_model_use_the_configured_kind(monkeypatch, model_config, attention):
    ids = torch.randint(300, (1, 8))
    monkeypatch.setattr(F, "dropout", None)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    GPT(model_config(dropout=0.1, attention=attention, dropout_random="packed")).train()(ids)
    with pytest.raises(TypeError):
        GPT(model_config(dropout=0.1, attention=attention, dropout_random="each")).train()(ids)
