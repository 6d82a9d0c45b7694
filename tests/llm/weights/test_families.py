"""Every family against transformers: logits, cache, padding, round trips, sharded and padded folders, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from llm.common.errors import DATA, UserError, UserErrors
from llm.generate.config import greedy
from llm.generate.decoding import generate
from llm.generate.session import Session
from llm.model.gpt import GPT
from llm.model.kv_cache import KVCache
from llm.model.memory import parameters
from llm.model.parts import FAMILIES
from llm.weights import families
from llm.weights.model_folder import load_model, save_model, starting_point
from stages.import_gpt2 import read
from tests.llm.tiny_models import MODELS, theirs
from tests.llm.weights.test_gpt2 import logits, reconfigure, rewrite
from tests.tiny import FP32

IDS = torch.randint(300, (3, 90), generator=torch.Generator().manual_seed(1))
names = pytest.mark.parametrize("name", MODELS)


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def eager(model: GPT) -> GPT:
    for block in model.transformer.h:
        block.attn.eager = True
    return model


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """The folder of a Llama that transformers wrote."""
    theirs("llama", tmp_path)
    return tmp_path


# Parity with transformers


@names
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    expected, model = logits(theirs(name, tmp_path), IDS), load_model(tmp_path).eval()
    near(logits(model, IDS), expected)
    near(logits(eager(model), IDS), expected)
    assert sum(p.numel() for p in model.parameters()) == parameters(model.config)


@names
@pytest.mark.parametrize("one_token", [True, False])
def test_cached_logits_are_those_of_transformers(
    name: str, one_token: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llm.model.kv_cache.ONE_TOKEN_DEVICES", ("cpu",) if one_token else ())
    expected, model = logits(theirs(name, tmp_path), IDS), load_model(tmp_path).eval()
    cache = KVCache(model.config, len(IDS), 200, model.transformer.wte.weight)
    with torch.no_grad():
        found = [model(part, cache) for part in torch.split(IDS, [7, *[1] * 63, 20], dim=1)]
    near(torch.cat(found, dim=1), expected)


@names
def test_left_padding_changes_nothing(name: str, tmp_path: Path) -> None:
    expected, model = logits(theirs(name, tmp_path), IDS), load_model(tmp_path).eval()
    padding = torch.tensor([0, 3, 40])
    padded = torch.stack([row.roll(pad) for row, pad in zip(IDS, padding.tolist(), strict=True)])
    with torch.no_grad():
        for one in (model, eager(model)):
            found = one(padded, None, padding)
            for row, pad in enumerate(padding.tolist()):
                near(found[row, pad:], expected[row, : 90 - pad])
        assert (model(padded)[2, 40:] - expected[2, :50]).abs().max() > 1e-3  # control: undeclared padding


@names
def test_greedy_decoding_in_a_batch_chooses_transformers_ids(name: str, tmp_path: Path) -> None:
    model, prompts = theirs(name, tmp_path), [IDS[0, :9].tolist(), IDS[1, :4].tolist()]
    found = generate(load_model(tmp_path), prompts, greedy(12), ())
    for prompt, new in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        whole = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        assert new == whole[0, len(prompt) :].tolist()


@names
def test_gradients_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = theirs(name, tmp_path)
    ours = load_model(tmp_path)
    for one in (model, ours):
        out = one(IDS)
        scores = out if isinstance(out, Tensor) else out.logits
        torch.nn.functional.cross_entropy(scores.flatten(0, 1), IDS.roll(-1).flatten()).backward()
    expected = model.get_input_embeddings().weight.grad
    torch.testing.assert_close(ours.transformer.wte.weight.grad, expected, atol=1e-6, rtol=1e-4)


# Round trips


@names
def test_a_saved_model_opens_in_transformers_and_reads_back(name: str, tmp_path: Path, vocabulary: Path) -> None:
    theirs(name, tmp_path / "theirs")
    model = load_model(tmp_path / "theirs").eval()
    save_model(model, vocabulary, tmp_path / "ours")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    near(logits(opened, IDS), logits(model, IDS))
    again = load_model(tmp_path / "ours")
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    opened.save_pretrained(tmp_path / "back")
    near(logits(load_model(tmp_path / "back").eval(), IDS), logits(model, IDS))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_model_of_each_family_opens_in_transformers(
    family: Any, tmp_path: Path, vocabulary: Path, model_config: Callable[..., Any]
) -> None:
    shape = {"family": family, "parts": FAMILIES[family], "n_embd": 24, "n_head": 4, "context_length": 128}
    shape |= {"n_layer": 4, "qkv_bias": family in ("gpt2", "qwen2"), "n_kv_head": None if family == "gpt2" else 2}
    config = model_config(**shape, tie_head=False, dropout=0.1, dropout_attention=0.2)
    assert not list(config.problems())
    torch.manual_seed(0)
    model = GPT(config).eval()
    save_model(model, vocabulary, tmp_path)
    near(logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), IDS), logits(model, IDS))
    rates = load_model(tmp_path).config
    assert (rates.dropout, rates.embedding_rate, rates.attention_rate) == (0.1, 0.1, 0.2)


def test_a_model_fine_tuned_in_transformers_reads_back(
    tmp_path: Path, vocabulary: Path, model_config: Callable[..., Any]
) -> None:
    save_model(GPT(model_config(context_length=128)), vocabulary, tmp_path / "ours")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
    model.save_pretrained(tmp_path / "tuned")
    found = logits(load_model(tmp_path / "tuned").eval(), IDS)
    near(found, logits(model.eval(), IDS))
    assert (found - logits(load_model(tmp_path / "ours").eval(), IDS)).abs().max() > 1e-3


# Other ways to store the same model


def test_a_model_in_shards_is_read(tmp_path: Path) -> None:
    model = theirs("llama", tmp_path / "whole")
    model.save_pretrained(tmp_path / "parts", max_shard_size="40KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    assert torch.equal(logits(load_model(tmp_path / "parts"), IDS), logits(load_model(tmp_path / "whole"), IDS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index, shard: index["weight_map"].pop("model.norm.weight"), "disagree about model.norm.weight"),
        (lambda index, shard: index["weight_map"].update({"more": shard}), "disagree about more"),
        (
            lambda index, shard: index["weight_map"].update({"more": "../other.safetensors"}),
            "not a file of this folder",
        ),
        (
            lambda index, shard: index["weight_map"].update({"more": "missing.safetensors"}),
            "no such file .* download all",
        ),
        (lambda index, shard: index.update({"weight_map": 3}), "has no weight_map"),
        (lambda index, shard: index.update({"weight_map": {"more": 3}}), "has no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(tmp_path: Path, change: Callable[..., Any], message: str) -> None:
    theirs("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index, index["weight_map"]["model.norm.weight"])
    path.write_text(json.dumps(index))
    with pytest.raises(UserError, match=message) as caught:
        load_model(tmp_path)
    assert caught.value.code == DATA


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_fp32(llama: Path, dtype: torch.dtype) -> None:
    expected = {name: tensor.to(dtype).float() for name, tensor in load_model(llama).state_dict().items()}
    rewrite(llama, lambda t: t.update({name: tensor.to(dtype) for name, tensor in t.items()}))
    for name, tensor in load_model(llama).state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_names_without_prefix_and_constants_are_read(llama: Path) -> None:
    expected = logits(load_model(llama), IDS)

    def change(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)
        tensors["layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    rewrite(llama, change)
    assert torch.equal(logits(load_model(llama), IDS), expected)


def test_rotary_keys_of_older_files_are_read(tmp_path: Path) -> None:
    expected = logits(theirs("llama3", tmp_path), IDS)
    rotary = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    theta = rotary.pop("rope_theta")
    reconfigure(tmp_path, rope_parameters=None, rope_scaling=rotary, rope_theta=theta)
    near(logits(load_model(tmp_path), IDS), expected)
    reconfigure(tmp_path, rope_theta=10000.0)  # control
    assert (logits(load_model(tmp_path), IDS) - expected).abs().max() > 1e-3


def test_rotary_keys_of_both_kinds_are_read_as_transformers_does(llama: Path) -> None:
    before = logits(load_model(llama), IDS)
    reconfigure(llama, rope_scaling={key: SCALED[key] for key in SCALED if key != "rope_theta"})
    found = logits(load_model(llama), IDS)
    near(found, logits(AutoModelForCausalLM.from_pretrained(llama).eval(), IDS))
    assert (found - before).abs().max() > 1e-3  # control


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "swish"},
        {"num_experts": 0, "num_local_experts": 0},
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 1.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 1.0, "rope_theta": 10000.0}},
    ],
    ids=str,
)
def test_other_spellings_of_the_same_arithmetic_are_read(llama: Path, changes: dict[str, Any]) -> None:
    expected, config = logits(load_model(llama), IDS), json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | changes))
    near(logits(load_model(llama), IDS), expected)
    near(logits(AutoModelForCausalLM.from_pretrained(llama).eval(), IDS), expected)


def test_biases_that_are_null_are_none(llama: Path) -> None:
    expected, config = logits(load_model(llama), IDS), json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps(config | {"attention_bias": None, "mlp_bias": None}))
    near(logits(load_model(llama), IDS), expected)


# Padded vocabularies


@pytest.mark.parametrize("name", ["smollm2", "llama"])
def test_an_id_above_the_tokenizers_is_never_chosen(name: str, tmp_path: Path, vocabulary: Path) -> None:
    theirs(name, tmp_path, vocab_size=320)
    rewrite(tmp_path, raise_rows_above(300))
    whole = load_model(tmp_path).eval()
    assert (logits(whole, IDS).argmax(-1) >= 300).any()  # control: they would win
    trimmed = load_model(tmp_path, tokens=300).eval()
    assert torch.equal(logits(trimmed, IDS), logits(whole, IDS)[..., :300])
    assert trimmed.config.vocab_size == trimmed.lm_head.out_features == 300
    assert (trimmed.lm_head.weight is trimmed.transformer.wte.weight) == trimmed.config.tie_head
    for weights in ("pretrained", "random"):
        assert starting_point(tmp_path, weights, 0.0, 1, tokens=300).config.vocab_size == 300
    for file in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((vocabulary / file).read_bytes())
    assert isinstance(Session(tmp_path, greedy(20), FP32, 1).answer("The quick"), str)
    with pytest.raises(UserError, match="a vocabulary of 320 tokens, but the tokenizer of 321"):
        load_model(tmp_path, tokens=321)


def raise_rows_above(tokens: int) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            if name in tensors:
                tensors[name][tokens:] = 3 * tensors[name][:20]

    return change


# Refusals

SCALED = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 10000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED |= {"original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe', only gpt2, llama, smollm3, qwen2, qwen3 are"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type is 'yarn', only 'default' and 'llama3'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor of the"),
        (
            {"rope_parameters": {"rope_type": "llama3", "factor": 2.0}},
            "original_max_position_embeddings is None, not a number",
        ),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type is 'yarn', only 'default' and 'llama3'"),
        ({"rope_parameters": 3}, "rope_parameters is 3, not an object"),
        ({"rope_parameters": None, "rope_theta": 0}, "rope_theta is 0, not a number above 0"),
        (
            {"rope_parameters": None, "rope_theta": 10**30},
            r"rope_theta is 10{30}, not a number above 0 and below 1e\+18",
        ),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 1e18}},
            r"rope_theta is 1e\+18, not a number above 0",
        ),
        ({"rope_parameters": SCALED | {"factor": 10**30}}, "factor is 10{30}, not a number above 0 and"),
        ({"rope_parameters": SCALED | {"low_freq_factor": 10**30}}, "low_freq_factor is 10{30}, not a number above"),
        ({"rope_parameters": SCALED | {"high_freq_factor": 10**400}}, "high_freq_factor is 10{59}, not a number above"),
        (
            {"rope_parameters": SCALED | {"original_max_position_embeddings": 10**30}},
            "original_max_position_embeddings is 10{30}, not a number above",
        ),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is 10{59}, not a number above"),
        ({"attention_dropout": 10**400}, "attention_dropout: 10+ is not between 0 and 1"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', only 'silu' and 'swish' are supported"),
        ({"is_causal": False}, "is_causal is False, only True and None are supported"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has layers other than"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config is {'quant_method': 'awq'}"),
        ({"num_experts": 8}, "num_experts is 8, only None and 0 are supported"),
        ({"num_key_value_heads": 4}, r"num_key_value_heads: 4 does not divide num_attention_heads \(6\)"),
        ({"head_dim": 7}, "head_dim: 7 is odd"),
        ({"head_dim": "8"}, "head_dim is '8', not a whole number above 0"),
        ({"hidden_size": 10**9}, r"hidden_size: 1000000000 is above"),
        ({"num_hidden_layers": 10**6}, "is too small for num_hidden_layers 1000000"),
        ({"intermediate_size": 10**12}, "is too small for intermediate_size 1000000000000"),
        ({"intermediate_size": 99}, r"up_proj.weight has the shape \(100, 48\), not \(99, 48\)"),
        ({"max_position_embeddings": 10**10}, "max_position_embeddings: 10000000000 is above"),
        ({"attention_dropout": 2}, "attention_dropout: 2 is not between 0 and 1"),
        ({"num_key_value_heads": 3}, r"v_proj\.weight has .*, which follows from num_key_value_heads and head_dim in"),
        ({"rms_norm_eps": None, "hidden_size": None}, "hidden_size is None, not a whole number above 0"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_and_named(llama: Path, changes: dict[str, Any], message: str) -> None:
    reconfigure(llama, **changes)
    with pytest.raises(UserError, match=message) as caught:
        load_model(llama)
    problems = caught.value.problems if isinstance(caught.value, UserErrors) else [caught.value]
    assert caught.value.code == DATA
    assert all("\n" not in str(problem) for problem in problems)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama3", "smollm3"])
def test_no_value_of_a_key_is_a_traceback(name: str, tmp_path: Path) -> None:
    theirs(name, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    right, refused = logits(load_model(tmp_path), IDS[:, :4]), 0
    for key in [*written, "rope_scaling", "rope_theta"]:
        for value in (None, [], {}, [[]], {"factor": []}, "x", -1, 0, 1.5, True, 10**30):
            (tmp_path / "config.json").write_text(json.dumps(written | {key: value}))
            try:
                model = load_model(tmp_path)
            except UserError:
                refused += 1
            else:
                assert logits(model, IDS[:, :4]).shape == right.shape
    assert refused > 100


def test_layers_without_positions_must_follow_the_interval(tmp_path: Path) -> None:
    theirs("smollm3", tmp_path)
    expected = logits(load_model(tmp_path), IDS)
    reconfigure(tmp_path, no_rope_layers=[1, 1, 1, 1])
    assert (logits(load_model(tmp_path), IDS) - expected).abs().max() > 1e-3
    reconfigure(tmp_path, no_rope_layers=[1, 0, 1, 0], no_rope_layer_interval=2)
    assert (logits(load_model(tmp_path), IDS) - expected).abs().max() > 1e-3
    reconfigure(tmp_path, no_rope_layers=[0, 1, 1, 0])
    with pytest.raises(UserError, match="no_rope_layers is not 0 at every layer with a number divisible by 2"):
        load_model(tmp_path)


def test_one_wrong_key_gives_few_lines(tmp_path: Path) -> None:
    theirs("llama", tmp_path, num_hidden_layers=8)
    reconfigure(tmp_path, head_dim=4)
    with pytest.raises(UserErrors) as caught:
        load_model(tmp_path)
    assert [problem.what for problem in caught.value.problems][10:] == ["22 more problems"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_weights_that_need_scales_are_refused(llama: Path, dtype: torch.dtype) -> None:
    rewrite(llama, lambda t: t.update({"model.norm.weight": t["model.norm.weight"].to(dtype)}))
    with pytest.raises(UserError, match=r"model\.norm\.weight holds torch\..*8.*, not floating point of 16 bits"):
        load_model(llama)


def test_weights_as_a_pickle_are_refused_with_the_command_that_converts_them(llama: Path) -> None:
    torch.save(load_file(llama / "model.safetensors"), llama / "pytorch_model.bin")
    (llama / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"only pytorch_model\.bin, which can run code") as caught:
        load_model(llama)
    code = caught.value.fix.split('`python -c "')[1].split('"`')[0]
    exec(code)  # the command of the message
    load_model(llama)


def test_two_heads_that_differ_are_refused(tmp_path: Path) -> None:
    theirs("smollm2", tmp_path)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}))
    with pytest.raises(UserError, match=r"lm_head\.weight differs from embed_tokens\.weight"):
        load_model(tmp_path)


def test_a_config_of_absurd_size_is_not_read(llama: Path) -> None:
    with (llama / "config.json").open("ab") as file:
        file.truncate(65 << 20)
    with pytest.raises(UserError, match=r"has 68,157,440 bytes, more than 67,108,864"):
        load_model(llama)
    (llama / "config.json").unlink()
    (llama / "config.json").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is a pipe or a device"):
        load_model(llama)


def test_a_checkpoint_keeps_its_tensors_as_they_are_published(llama: Path) -> None:
    checkpoint = read(llama)
    assert checkpoint.tensors.keys() == load_file(llama / "model.safetensors").keys()
    assert checkpoint.config.family == "llama"
    assert families.FORMATS.keys() == FAMILIES.keys()
