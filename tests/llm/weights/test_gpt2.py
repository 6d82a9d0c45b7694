"""GPT-2's published format: parity with transformers in both directions, and refusal of wrong files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from llm.common.errors import DATA, UserError, UserErrors
from llm.model.config import ModelConfig
from llm.model.gpt import GPT, count_parameters
from llm.weights import families
from llm.weights.model_folder import load_model, load_tokenizer, save_model

Make = Callable[..., ModelConfig]
Tensors = dict[str, Tensor]
IDS = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(1))


def spread(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Give all parameters values large enough to matter."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def theirs(folder: Path, **changes: Any) -> GPT2LMHeadModel:
    """A tiny GPT-2 of transformers, saved to `folder`."""
    shape: dict[str, Any] = {"vocab_size": 300, "n_positions": 16, "n_embd": 8, "n_layer": 2, "n_head": 2}
    model = GPT2LMHeadModel(GPT2Config(**(shape | changes)))
    spread(model)
    model.save_pretrained(folder)
    return model


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The folder of a tiny checkpoint that transformers wrote."""
    theirs(tmp_path)
    return tmp_path


def logits(model: torch.nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        answer = model(ids)
    return answer if isinstance(answer, Tensor) else answer.logits


def rewrite(folder: Path, change: Callable[[Tensors], Any]) -> None:
    """Change the tensors of a folder."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def reconfigure(folder: Path, **changes: Any) -> None:
    """Change keys of config.json; None removes one."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


# Parity with transformers


@pytest.mark.parametrize("tied", [True, False])
def test_checkpoint_of_transformers_gives_their_logits(tmp_path: Path, tied: bool) -> None:
    model = theirs(tmp_path, tie_word_embeddings=tied)
    ours = load_model(tmp_path).eval()
    assert ours.config.tie_head == tied
    torch.testing.assert_close(logits(ours), logits(model), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_model_of_ours_gives_its_logits_in_transformers(
    tmp_path: Path, vocabulary: Path, model_config: Make, tied: bool, qkv_bias: bool
) -> None:
    model = spread(GPT(model_config(tie_head=tied, qkv_bias=qkv_bias)))
    assert isinstance(model, GPT)
    save_model(model, vocabulary, tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(opened), logits(model), atol=1e-4, rtol=0)


def test_tokenizer_of_ours_opens_in_transformers(tmp_path: Path, vocabulary: Path, model_config: Make) -> None:
    save_model(GPT(model_config()), vocabulary, tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    text = "  Naïve foxes don't\n\njump 12 times 🙂"
    assert opened.encode(text, add_special_tokens=False) == load_tokenizer(tmp_path).encode(text)
    assert opened.decode(opened.encode(text)) == text
    assert (len(opened), opened.eos_token_id) == (300, 299)


def test_transformers_stops_where_we_stop(tmp_path: Path, vocabulary: Path, model_config: Make) -> None:
    save_model(GPT(model_config()), vocabulary, tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert opened.generation_config.eos_token_id == opened.config.bos_token_id == 299


@pytest.mark.slow
def test_full_size_checkpoint_of_transformers_gives_their_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    model.save_pretrained(tmp_path)
    ours = load_model(tmp_path).eval()
    ids = torch.randint(50257, (1, 64))
    assert count_parameters(ours) == 124_439_808
    torch.testing.assert_close(logits(ours, ids), logits(model, ids), atol=1e-4, rtol=0)


# Wrong tensors with right names and shapes


def transpose_projection(tensors: Tensors) -> None:
    tensors["transformer.h.0.attn.c_proj.weight"] = tensors["transformer.h.0.attn.c_proj.weight"].t()


def reorder_qkv(*order: int) -> Callable[[Tensors], None]:
    def reorder(tensors: Tensors) -> None:
        for name in ("weight", "bias"):
            parts = tensors[f"transformer.h.1.attn.c_attn.{name}"].chunk(3, dim=-1)
            tensors[f"transformer.h.1.attn.c_attn.{name}"] = torch.cat([parts[i] for i in order], dim=-1)

    return reorder


def swap(first: str, second: str) -> Callable[[Tensors], None]:
    def swapped(tensors: Tensors) -> None:
        for name in ("weight", "bias"):
            a, b = f"transformer.{first}.{name}", f"transformer.{second}.{name}"
            tensors[a], tensors[b] = tensors[b], tensors[a]

    return swapped


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(transpose_projection, id="c_proj not transposed"),
        pytest.param(reorder_qkv(1, 0, 2), id="q and k swapped"),
        pytest.param(reorder_qkv(0, 2, 1), id="k and v swapped"),
        pytest.param(reorder_qkv(2, 1, 0), id="q and v swapped"),
        pytest.param(swap("h.0.ln_1", "h.0.ln_2"), id="norms of a block swapped"),
        pytest.param(swap("h.1.ln_2", "ln_f"), id="last norms swapped"),
        pytest.param(swap("h.0.ln_1", "h.1.ln_1"), id="norms of two blocks swapped"),
    ],
)
def test_parity_notices_a_wrong_tensor_of_the_right_shape(published: Path, damage: Callable[[Tensors], None]) -> None:
    right = logits(load_model(published).eval())
    rewrite(published, damage)
    assert (logits(load_model(published).eval()) - right).abs().max() > 1e-3


# The same arithmetic, spelled in another way


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "gelu_pytorch_tanh"},
        {"activation_function": "gelu_python_tanh"},
        {"activation_function": "gelu_fast"},
        {"activation_function": "gelu_accurate"},
        {"n_inner": 32},
        {"n_inner": 20},
        {"layer_norm_epsilon": 1e-3},
    ],
    ids=str,
)
def test_other_spellings_and_widths_give_transformers_logits(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = theirs(tmp_path, **changes)
    torch.testing.assert_close(logits(load_model(tmp_path).eval()), logits(model), atol=1e-5, rtol=0)


def test_keys_named_as_transformers_attributes_are_read(tmp_path: Path) -> None:
    model = theirs(tmp_path)
    other = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 16}
    reconfigure(tmp_path, n_embd=None, n_layer=None, n_head=None, n_positions=None, **other)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.n_head == 2
    torch.testing.assert_close(logits(load_model(tmp_path).eval()), logits(model), atol=1e-5, rtol=0)
    reconfigure(tmp_path, max_position_embeddings=None, n_ctx=16)
    assert load_model(tmp_path).config.context_length == 16
    reconfigure(tmp_path, max_position_embeddings=16, n_ctx=12)  # ignored, as in transformers
    assert load_model(tmp_path).config.context_length == 16


@pytest.mark.parametrize(
    ("ours", "other"),
    [
        ("n_head", {"num_attention_heads": 4}),
        ("n_layer", {"num_hidden_layers": 1}),
        ("n_embd", {"hidden_size": 16}),
        ("n_positions", {"max_position_embeddings": 8}),
    ],
)
def test_two_names_of_a_key_with_different_values_are_refused(
    published: Path, ours: str, other: dict[str, int]
) -> None:
    """transformers takes the other name; nothing in the tensors would tell that the number of heads is wrong."""
    ((name, value),) = other.items()
    right = json.loads((published / "config.json").read_text())[ours]
    reconfigure(published, **{name: right})
    assert load_model(published)
    reconfigure(published, **other)
    with pytest.raises(UserError, match=f"{name} is {value}, but {ours} is {right}") as caught:
        load_model(published)
    assert caught.value.code == DATA


# Round trips


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("tie_head", [True, False])
def test_weights_are_bitwise_the_same_after_a_round_trip(
    tmp_path: Path, vocabulary: Path, model_config: Make, qkv_bias: bool, tie_head: bool
) -> None:
    model = spread(GPT(model_config(qkv_bias=qkv_bias, tie_head=tie_head, init="torch", dropout=0.25)))
    assert isinstance(model, GPT)
    save_model(model, vocabulary, tmp_path)
    again = load_model(tmp_path)
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_a_model_with_large_logits_has_the_same_ones_in_transformers(
    tmp_path: Path, vocabulary: Path, model_config: Make
) -> None:
    shape = {"vocab_size": 2048, "context_length": 256, "n_layer": 4, "n_head": 6, "n_embd": 192, "attention": "sdpa"}
    model = spread(GPT(model_config(**shape)))
    save_model(model, vocabulary, tmp_path)
    ids = torch.randint(2048, (2, 256), generator=torch.Generator().manual_seed(1))
    expected = logits(model, ids)
    assert expected.abs().max() > 10  # control: the activation computed in other steps differs by more than 1e-5
    opened = AutoModelForCausalLM.from_pretrained(tmp_path, activation_function="gelu_new").eval()
    assert (logits(opened, ids) - expected).abs().max() > 1e-5
    opened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(logits(opened, ids), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("rates", "written"),
    [
        ({"dropout": 0.1}, (0.1, 0.1, 0.1)),
        ({"dropout": 0.1, "dropout_embedding": 0.0}, (0.0, 0.1, 0.1)),
        ({"dropout": 0.1, "dropout_embedding": 0.2, "dropout_attention": 0.3}, (0.2, 0.3, 0.1)),
    ],
)
def test_three_dropout_rates_survive_a_round_trip(
    model_config: Make, rates: dict[str, float], written: tuple[float, float, float]
) -> None:
    config = model_config(**rates)
    published = families.published(config)
    assert tuple(published[f"{name}_pdrop"] for name in ("embd", "attn", "resid")) == written
    assert families.parse_config(published, "here") == config


def test_a_single_dropout_rate_applies_everywhere(model_config: Make) -> None:
    published = families.published(model_config(dropout=0.25))
    del published["embd_pdrop"], published["attn_pdrop"]
    assert families.parse_config(published, "here") == model_config(dropout=0.25)


def test_tied_head_is_one_tensor_after_loading(published: Path) -> None:
    model = load_model(published)
    assert model.lm_head.weight is model.transformer.wte.weight


def test_untied_head_starts_as_a_copy_of_the_embedding(published: Path) -> None:
    tied, untied = load_model(published).eval(), load_model(published).eval()
    families.untie_head(untied)
    assert torch.equal(logits(untied), logits(tied))
    assert not untied.config.tie_head
    with torch.no_grad():
        untied.lm_head.weight.add_(1)
    assert torch.equal(untied.transformer.wte.weight, tied.transformer.wte.weight)
    head = untied.lm_head.weight
    families.untie_head(untied)
    assert untied.lm_head.weight is head


# Names in other checkpoints of GPT-2


def openai_names(tensors: Tensors) -> None:
    """As in `openai-community/gpt2`: no prefix, and the mask stored as a tensor."""
    for name in list(tensors):
        tensors[name.removeprefix("transformer.")] = tensors.pop(name)
    for layer in (0, 1):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(16, 16).tril().view(1, 1, 16, 16)
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)


def test_names_without_prefix_and_stored_masks_are_read(published: Path) -> None:
    right = logits(load_model(published).eval())
    rewrite(published, openai_names)
    assert torch.equal(logits(load_model(published).eval()), right)


@pytest.mark.parametrize("wrapped", ["_orig_mod.{}", "module.{}", "module._orig_mod.{}", "_orig_mod.module.{}"])
@pytest.mark.parametrize("short", [True, False])
def test_names_of_wrapped_modules_are_read(published: Path, wrapped: str, short: bool) -> None:
    """As torch.compile and DistributedDataParallel name the tensors of the model that they wrap."""
    right = logits(load_model(published).eval())

    def change(tensors: Tensors) -> None:
        if short:
            openai_names(tensors)
        for name in list(tensors):
            tensors[wrapped.format(name)] = tensors.pop(name)

    rewrite(published, change)
    assert torch.equal(logits(load_model(published).eval()), right)


def test_names_of_wrapped_blocks_are_read(published: Path) -> None:
    """As FSDP and torch.compile name the tensors of blocks that they wrap."""
    right = logits(load_model(published).eval())

    def change(tensors: Tensors) -> None:
        for name in [name for name in tensors if ".h." in name]:
            wrapped = name.replace(".h.0.", ".h.0._orig_mod.").replace(".h.1.", ".h.1._fsdp_wrapped_module.")
            tensors[wrapped] = tensors.pop(name)

    rewrite(published, change)
    assert torch.equal(logits(load_model(published).eval()), right)


def test_stored_tied_head_is_read(published: Path) -> None:
    right = logits(load_model(published).eval())
    rewrite(published, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()}))
    assert torch.equal(logits(load_model(published).eval()), right)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_is_read_as_fp32(published: Path, dtype: torch.dtype) -> None:
    right = load_model(published)
    rewrite(published, lambda t: t.update({name: tensor.to(dtype) for name, tensor in t.items()}))
    for name, tensor in load_model(published).state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, right.state_dict()[name].to(dtype).float())


# Tensors that do not fit

WTE, BIAS = "transformer.wte.weight", "transformer.h.0.attn.c_attn.bias"


def set_nan(tensors: Tensors, value: float = float("nan")) -> None:
    tensors[WTE][7, 3] = value


DAMAGE: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (lambda t: t.pop(WTE), f"{WTE} is missing"),
    "extra": (
        lambda t: t.update({"transformer.h.2.ln_1.weight": torch.ones(8)}),
        "h.2.ln_1.weight is not a tensor of this GPT-2",
    ),
    "foreign": (
        lambda t: t.update({"optimizer": torch.ones(8)}),
        "transformer.optimizer is not a tensor of this GPT-2",
    ),
    "misshaped": (lambda t: t.update({BIAS: torch.ones(8)}), rf"{BIAS} has the shape \(8,\), not \(24,\)"),
    "transposed": (
        lambda t: t.update({"transformer.h.0.mlp.c_fc.weight": torch.ones(32, 8)}),
        r"h\.0\.mlp\.c_fc\.weight has the shape \(32, 8\), not \(8, 32\)",
    ),
    "whole numbers": (lambda t: t.update({BIAS: torch.ones(24, dtype=torch.int8)}), f"{BIAS} holds torch.int8"),
    "NaN": (set_nan, f"{WTE} holds NaN or infinity"),
    "infinity": (lambda t: set_nan(t, float("inf")), f"{WTE} holds NaN or infinity"),
    "infinite in fp32": (
        lambda t: t.update({BIAS: torch.full((24,), 1e300, dtype=torch.float64)}),
        f"{BIAS} holds NaN or infinity",
    ),
    "twice": (lambda t: t.update({"wte.weight": t[WTE].clone()}), f"{WTE} is stored twice"),
    "head not tied": (lambda t: t.update({"lm_head.weight": t[WTE] + 1}), "lm_head.weight differs from wte.weight"),
    "head misshaped": (lambda t: t.update({"lm_head.weight": torch.ones(2, 2)}), "lm_head.weight differs"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_tensor_that_does_not_fit_is_refused(published: Path, damage: Callable[[Tensors], Any], message: str) -> None:
    rewrite(published, damage)
    with pytest.raises(UserError, match=message) as caught:
        load_model(published)
    assert (caught.value.where, caught.value.code) == (str(published / "model.safetensors"), DATA)


def test_all_tensors_that_do_not_fit_are_listed_together(published: Path) -> None:
    def damage(tensors: Tensors) -> None:
        tensors.pop("transformer.h.0.ln_1.weight")
        tensors.pop("transformer.h.1.ln_1.weight")
        tensors["transformer.extra"] = torch.ones(1)
        tensors[BIAS] = torch.ones(8)
        set_nan(tensors)

    rewrite(published, damage)
    with pytest.raises(UserErrors) as caught:
        load_model(published)
    listed = "\n".join(str(problem) for problem in caught.value.problems)
    assert len(caught.value.problems) == 5
    for name in ("h.0.ln_1.weight is missing", "h.1.ln_1.weight is missing", "extra is not", "(8,)", "NaN"):
        assert name in listed


def test_qkv_bias_that_is_not_zero_is_not_dropped(published: Path) -> None:
    reconfigure(published, qkv_bias=False)
    with pytest.raises(UserErrors) as caught:
        load_model(published)
    assert [p.what.split(" is not zero")[0] for p in caught.value.problems] == [BIAS, BIAS.replace(".0.", ".1.")]


def test_rewriting_without_changes_keeps_a_checkpoint_valid(published: Path) -> None:
    rewrite(published, lambda tensors: None)
    reconfigure(published)
    load_model(published)


# config.json


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral', only gpt2, llama, smollm3, qwen2, qwen3 are supported"),
        ({"activation_function": "relu"}, "activation_function is 'relu'"),
        ({"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon is -1e-06, not a number above 0"),
        ({"n_inner": 16}, r"c_proj.weight has the shape \(32, 8\), not \(16, 8\)"),
        ({"n_inner": 16.0}, "n_inner is 16.0, not a whole number above 0"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is {'bits': 4}, only None is supported"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
        ({"is_causal": False}, "is_causal is False"),
        ({"n_layer": None}, "n_layer is None, not a whole number above 0"),
        ({"n_layer": True}, "n_layer is True"),
        ({"n_head": 0}, "n_head is 0"),
        ({"vocab_size": "300"}, "vocab_size is '300'"),
        ({"n_positions": 16.0}, "n_positions is 16.0"),
        ({"n_head": 3}, r"n_embd: 8 is not divisible by n_head \(3\)"),
        ({"resid_pdrop": "0.1"}, "resid_pdrop is '0.1', not a number"),
        ({"embd_pdrop": "0.2"}, "embd_pdrop is '0.2', not a number"),
        ({"attn_pdrop": True}, "attn_pdrop is True, not a number"),
        ({"attn_pdrop": 1.5}, "attn_pdrop: 1.5 is not between 0 and 1"),
        ({"resid_pdrop": 1.5}, "resid_pdrop: 1.5 is not between 0 and 1"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false', not true or false"),
        ({"qkv_bias": 0}, "qkv_bias is 0, not true or false"),
        ({"n_positions": 32}, r"wpe.weight has the shape \(16, 8\), not \(32, 8\)"),
        ({"tie_word_embeddings": False}, "lm_head.weight is missing"),
    ],
    ids=str,
)
def test_config_that_is_not_the_checkpoints_is_refused(published: Path, changes: dict[str, Any], message: str) -> None:
    reconfigure(published, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_model(published)
    assert caught.value.code == DATA


def test_all_wrong_keys_are_listed_together(published: Path) -> None:
    reconfigure(published, activation_function="relu", n_layer=0, n_head=-1)
    with pytest.raises(UserErrors) as caught:
        load_model(published)
    assert [problem.what.split(" ")[0] for problem in caught.value.problems] == [
        "activation_function",
        "n_layer",
        "n_head",
    ]


def test_config_that_is_no_object_is_refused(published: Path) -> None:
    (published / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="holds list, not an object"):
        load_model(published)
