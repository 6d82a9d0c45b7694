"""The model: both forms of attention, causality, cache, padding, published sizes, initialisation, dropout."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT, Attention, Block, attend, attention_mask, count_parameters, gelu
from llm.model.kv_cache import EMPTY_SLOTS, KVCache, attend_one

Make = Callable[..., ModelConfig]


def make(config: ModelConfig, seed: int = 0) -> GPT:
    """A model in evaluation mode whose weights are large enough for every part to matter."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def some_ids(rows: int = 3, length: int = 9) -> Tensor:
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(1))


# Attention


def test_eager_attention_equals_sdpa(model_config: Make) -> None:
    sdpa, eager = make(model_config()), make(model_config(attention="eager"))
    ids, padding = some_ids(), torch.tensor([0, 4, 8])
    torch.testing.assert_close(sdpa(ids), eager(ids), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sdpa(ids, None, padding), eager(ids, None, padding), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("empty", [0, 3, EMPTY_SLOTS, EMPTY_SLOTS + 1])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_one_token_equals_the_other_forms(
    model_config: Make, masked: bool, empty: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    q, (k, v) = torch.randn(3, 2, 1, 16, dtype=dtype), torch.randn(2, 3, 2, 7, 16, dtype=dtype)
    mask = (torch.arange(7) >= torch.tensor([0, 2, 6])[:, None])[:, None, None] if masked else None  # (B, 1, 1, S)
    cache = KVCache(model_config(n_embd=32), 3, 7 + empty, like=q)
    for store in cache.keys + cache.values:
        store.fill_(math.nan)  # unwritten slots may hold anything
    cache.append(1, k, v)
    cache.length = 6
    one = attend_one(q, cache, 1, mask)
    assert one.dtype == dtype
    near = {torch.float32: 1e-6, torch.bfloat16: 0.02}[dtype]
    torch.testing.assert_close(one, F.scaled_dot_product_attention(q, k, v, mask), rtol=near, atol=near)
    torch.testing.assert_close(one, attend(q, k, v, mask, nn.Identity()), rtol=near, atol=near)
    cache.length = 5
    assert (attend_one(q, cache, 1, None) - one).abs().max() > 0.01  # control


def test_eager_attention_sees_all_earlier_keys() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 2, 7, 4)
    whole = attend(q, k, v, None, nn.Identity())
    torch.testing.assert_close(attend(q[:, :, 4:], k, v, None, nn.Identity()), whole[:, :, 4:])


def test_attention_is_the_weighted_mean_of_the_visible_values() -> None:
    q, k, v = torch.randn(3, 1, 1, 4, 5)
    expected = torch.zeros(4, 5)
    for query in range(4):
        scores = [math.exp(float(q[0, 0, query] @ k[0, 0, key]) / math.sqrt(5)) for key in range(query + 1)]
        for key, score in enumerate(scores):
            expected[query] += score / sum(scores) * v[0, 0, key]
    torch.testing.assert_close(attend(q, k, v, None, torch.nn.Identity())[0, 0], expected)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_heads_are_computed_separately(model_config: Make, attention: str) -> None:
    config = model_config(attention=attention)
    layer, x = Attention(config, 0), torch.randn(1, 5, 8)
    with torch.no_grad():
        layer.c_proj.weight.copy_(torch.eye(8))
        layer.c_proj.bias.zero_()
        q, k, v = layer.c_attn(x).split(8, dim=-1)
        halves = [[t[:, None, :, s : s + 4] for t in (q, k, v)] for s in (0, 4)]
        heads = [attend(q, k, v, None, torch.nn.Identity())[:, 0] for q, k, v in halves]
        torch.testing.assert_close(layer(x, None, None, None), torch.cat(heads, dim=-1))


def test_mask_allows_a_token_itself_and_earlier_ones() -> None:
    assert attention_mask(0, 3, None, torch.device("cpu")) is None
    assert attention_mask(2, 2, None, torch.device("cpu")).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]  # type: ignore[union-attr]


def test_mask_hides_padding_from_all_other_tokens() -> None:
    mask = attention_mask(0, 3, torch.tensor([2, 0]), torch.device("cpu"))
    assert mask is not None
    assert mask[0, 0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert mask[1, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


# Causality


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_later_tokens_do_not_change_earlier_logits(model_config: Make, attention: str) -> None:
    model, ids = make(model_config(attention=attention)), some_ids()
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 300
    before, after = model(ids), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().amax(-1).min() > 1e-3


def test_earlier_tokens_change_later_logits(model_config: Make) -> None:
    model, ids = make(model_config()), some_ids()
    changed = ids.clone()
    changed[:, 0] = (changed[:, 0] + 1) % 300
    assert (model(ids)[:, -1] - model(changed)[:, -1]).abs().max() > 1e-3


# Cache


@pytest.fixture(params=[True, False], ids=["one token fast", "generic"])
def one_token(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention of a single token as on CPUs, and as on accelerators."""
    monkeypatch.setattr("llm.model.kv_cache.ONE_TOKEN_DEVICES", ("cpu",) if request.param else ())


@pytest.mark.usefixtures("one_token")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pieces", [[9], [1] * 9, [4, 1, 3, 1]], ids=str)
def test_cached_logits_equal_uncached_logits(model_config: Make, attention: str, pieces: list[int]) -> None:
    model, ids = make(model_config(attention=attention)), some_ids()
    cache = KVCache(model.config, len(ids), 9, model.transformer.wte.weight)
    cached = torch.cat([model(part, cache) for part in torch.split(ids, pieces, dim=1)], dim=1)
    torch.testing.assert_close(cached, model(ids), atol=1e-5, rtol=1e-5)


def test_cache_that_starts_a_token_late_gives_other_logits(model_config: Make) -> None:
    model, ids = make(model_config()), some_ids()
    cache = KVCache(model.config, len(ids), 9, model.transformer.wte.weight)
    model(ids[:, 1:5], cache)
    assert (model(ids[:, 5:], cache) - model(ids)[:, 5:]).abs().max() > 1e-3


def test_full_cache_refuses_another_token(model_config: Make) -> None:
    model, ids = make(model_config()), some_ids()
    cache = KVCache(model.config, len(ids), 4, model.transformer.wte.weight)
    model(ids[:, :4], cache)
    with pytest.raises(AssertionError, match="the cache is full"):
        model(ids[:, 4:5], cache)


@pytest.mark.usefixtures("one_token")
def test_kept_rows_continue_as_before(model_config: Make) -> None:
    model, ids, rows = make(model_config()), some_ids(), torch.tensor([2, 0])
    cache = KVCache(model.config, len(ids), 9, model.transformer.wte.weight)
    model(ids[:, :8], cache)
    cache.keep(rows)
    torch.testing.assert_close(model(ids[rows, 8:], cache), model(ids)[rows, 8:], atol=1e-5, rtol=1e-5)


def test_rows_are_dropped_one_layer_at_a_time(model_config: Make) -> None:
    cache = KVCache(model_config(), 3, 9, torch.empty(0))
    old = [weakref.ref(store) for store in cache.keys + cache.values]
    alive = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            alive.append(sum(store() is not None for store in old))
            return func(*args, **(kwargs or {}))

    rows = torch.tensor([2, 0])
    with Watch():
        cache.keep(rows)
    assert alive == [4, 3, 2, 1]


# Padding


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_left_padding_changes_nothing(model_config: Make, attention: str) -> None:
    model, ids = make(model_config(attention=attention)), some_ids()
    padding = torch.tensor([0, 3, 8])
    for filler in (0, 299):
        padded = torch.full_like(ids, filler)
        for row, pad in enumerate(padding.tolist()):
            padded[row, pad:] = ids[row, : 9 - pad]
        logits = model(padded, None, padding)
        for row, pad in enumerate(padding.tolist()):
            alone = model(ids[row : row + 1, : 9 - pad])
            torch.testing.assert_close(logits[row : row + 1, pad:], alone, atol=1e-5, rtol=1e-5)


def test_undeclared_padding_changes_the_logits(model_config: Make) -> None:
    model, ids = make(model_config()), some_ids()
    padded = torch.cat([torch.zeros_like(ids[:, :2]), ids], dim=1)
    assert (model(padded)[:, 2:] - model(ids)).abs().max() > 1e-3


def test_padded_rows_give_finite_gradients(model_config: Make) -> None:
    model, ids = make(model_config()), some_ids()
    model(ids, None, torch.tensor([0, 3, 8])).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# Sizes and initialisation

SIZES = {"124M": (768, 12, 12), "355M": (1024, 24, 16), "774M": (1280, 36, 20), "1558M": (1600, 48, 25)}


def count(size: str, **changes: Any) -> int:
    n_embd, n_layer, n_head = SIZES[size]
    shape: dict[str, Any] = {"family": "gpt2", "vocab_size": 50257, "context_length": 1024, "n_embd": n_embd}
    shape |= {
        "n_layer": n_layer,
        "n_head": n_head,
        "n_kv_head": None,
        "dropout": 0.1,
        "init": "torch",
        "attention": "sdpa",
    }
    shape |= {"dropout_embedding": None, "dropout_attention": None, "dropout_random": "each"}
    with torch.device("meta"):
        return count_parameters(GPT(ModelConfig(**(shape | changes))))


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("124M", 124_439_808), ("355M", 354_823_168), ("774M", 774_030_080), ("1558M", 1_557_611_200)],
)
def test_published_gpt2_has_its_published_number_of_parameters(size: str, parameters: int) -> None:
    assert count(size, tie_head=True, qkv_bias=True) == parameters


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("124M", 163_009_536), ("355M", 406_212_608), ("774M", 838_220_800), ("1558M", 1_637_792_000)],
)
def test_the_books_model_has_its_published_number_of_parameters(size: str, parameters: int) -> None:
    assert count(size, tie_head=False, qkv_bias=False) == parameters


def test_one_block_has_the_books_number_of_parameters(model_config: Make) -> None:
    with torch.device("meta"):
        block = Block(model_config(n_embd=768, n_head=12, qkv_bias=False), 0)
    assert count_parameters(block.mlp) == 4_722_432
    assert count_parameters(block.attn) == 2_360_064


def test_frozen_parameters_are_not_trainable(model_config: Make) -> None:
    model = GPT(model_config())
    everything = count_parameters(model)
    model.transformer.wpe.requires_grad_(False)
    assert (count_parameters(model), count_parameters(model, trainable_only=True)) == (everything, everything - 16 * 8)


def test_tied_head_is_the_embedding_itself(model_config: Make) -> None:
    assert (tied := GPT(model_config(tie_head=True))).lm_head.weight is tied.transformer.wte.weight
    untied = GPT(model_config(tie_head=False))
    assert untied.lm_head.weight is not untied.transformer.wte.weight


def test_gpt2_initialisation_scales_the_shortcuts_down(model_config: Make) -> None:
    torch.manual_seed(0)
    model = GPT(model_config(n_embd=128, n_layer=8))
    (block, *_) = (module for module in model.transformer.h if isinstance(module, Block))
    for weight in (block.attn.c_attn.weight, block.mlp.c_fc.weight, model.transformer.wte.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    for shortcut in (block.attn.c_proj, block.mlp.c_proj):
        assert shortcut.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
        assert not shortcut.bias.any()


def test_width_initialisation_depends_on_the_width(model_config: Make) -> None:
    torch.manual_seed(0)
    model = GPT(model_config(init="width", n_embd=64, n_layer=2))
    assert model.transformer.wte.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert model.transformer.h[1].mlp.c_fc.weight.std().item() == pytest.approx(1 / 8, rel=0.05)
    assert model.transformer.h[1].mlp.c_proj.weight.std().item() == pytest.approx(1 / 16, rel=0.05)
    assert model.transformer.h[0].attn.c_attn.bias.abs().max() == 0


def test_torch_initialisation_is_kept(model_config: Make) -> None:
    torch.manual_seed(0)
    assert GPT(model_config(init="torch")).transformer.wte.weight.std().item() == pytest.approx(1.0, rel=0.1)


@pytest.mark.slow
def test_untrained_model_gives_the_books_text() -> None:
    n_embd, n_layer, n_head = SIZES["124M"]
    torch.manual_seed(123)
    rates = (0.1, False, False, "torch", "eager", None, None, "each")
    book = ModelConfig("gpt2", 1024, n_layer, n_head, None, n_embd, *rates, vocab_size=50257)
    model, ids = GPT(book).eval(), [15496, 11, 314, 716]  # "Hello, I am"
    for _ in range(6):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert ids[4:] == [27018, 24086, 47843, 30961, 42348, 7267]  # "Featureiman Byeswickattribute argue"


# Dropout


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_dropout_acts_in_training_only(model_config: Make, attention: str) -> None:
    model, ids = make(model_config(dropout=0.5, attention=attention)), some_ids()
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert not torch.equal(model(ids), model(ids))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_weights_are_dropped_in_training(model_config: Make, attention: str) -> None:
    layer, x = Attention(model_config(dropout=0.5, attention=attention), 0).train(), torch.randn(1, 6, 8)
    assert not torch.equal(layer(x, None, None, None), layer(x, None, None, None))
    layer.eval()
    assert torch.equal(layer(x, None, None, None), layer(x, None, None, None))


def test_each_dropout_rate_reaches_its_layers(model_config: Make) -> None:
    """Exercise 4.3."""
    rates = {"dropout": 0.1, "dropout_embedding": 0.2, "dropout_attention": 0.3}
    transformer = GPT(model_config(**rates)).transformer
    assert transformer.drop.rate == 0.2
    assert {(block.attn.drop.rate, block.drop.rate) for block in transformer.h} == {(0.3, 0.1)}
    zero = GPT(model_config(**rates | {"dropout_embedding": 0.0})).transformer  # 0 is not the same as None
    assert zero.drop.rate == 0.0


@pytest.mark.parametrize("only", ["dropout", "dropout_embedding", "dropout_attention"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_each_dropout_rate_alone_drops_something(model_config: Make, attention: str, only: str) -> None:
    rates = {"dropout": 0.0, "dropout_embedding": 0.0, "dropout_attention": 0.0}
    model, ids = make(model_config(attention=attention, **rates)).train(), some_ids()
    assert torch.equal(model(ids), model(ids))
    model = make(model_config(attention=attention, **(rates | {only: 0.5}))).train()
    assert not torch.equal(model(ids), model(ids))


# Checks


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"n_embd": 9}, "n_embd"),
        ({"n_embd": 0}, "n_embd"),
        ({"n_head": 0}, "n_head"),
        ({"n_layer": -1}, "n_layer"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"context_length": 0}, "context_length"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout_embedding": 1.0}, "dropout_embedding"),
        ({"dropout_attention": -0.1}, "dropout_attention"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_impossible_shape_is_a_problem(model_config: Make, changes: dict[str, Any], field: str) -> None:
    assert field in [name for name, *_ in model_config(**changes).problems()]
    assert not list(model_config().problems())


def test_the_section_and_a_vocabulary_make_the_config(model_config: Make) -> None:
    config = model_config(vocab_size=77)
    section = {key: value for key, value in vars(config).items() if key not in ("vocab_size", "parts")}
    assert ModelParams(**section).config(77) == config


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_gelu_has_the_same_values(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    x = torch.linspace(-20, 20, 4001).to(dtype)
    plain = gelu(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(torch.nn.functional, "gelu", None)
    compiled = gelu(x)
    assert compiled.dtype == dtype
    torch.testing.assert_close(compiled, plain, atol=1e-6, rtol=1e-5 if dtype == torch.float32 else 2**-8)
