"""GGUF files: to a Hugging Face folder and back, and llama.cpp itself as the reader."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Trainable
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from benchmarks.llama_cpp import LlamaCpp
from llm.common.errors import UserError
from llm.data.tokenizer import Segment, Tokenizer, adopt
from llm.weights import gguf_export, gguf_import
from llm.weights.gguf_tables import LLAMA3, PRE_TOKENIZERS, rotary_factors
from llm.weights.model_folder import load_model, save_model
from tests import tiny_tokenizers

SIZES = {"hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE = SIZES | {"num_key_value_heads": 2, "max_position_embeddings": 128}
TEXT = [
    f"The {word} of {number} is 'warm'. We're 12{number} there.\n" for number in range(40) for word in ("sun", "sea")
]
TEXTS = [
    "The sun of 5 is warm.",
    "We're 1234567 there\n\n  now",
    "caf\u00e9 \u4f60\u597d <|end|>",
    " \t\n x",
    "don't DON'T",
]


def tokenizer_files(folder: Path, pre: str, size: int = 300) -> None:
    """Train a tokenizer with a pre-tokenizer of the table, and two special tokens."""
    known = PRE_TOKENIZERS[pre]
    trained = Trainable(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=size - 2, initial_alphabet=alphabet, show_progress=False)
    )
    trained.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<|end|>", "<|start|>")])
    assert trained.get_vocab_size() == size
    stored = json.loads(trained.to_str())
    stored["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": known.steps}
    stored["normalizer"] = known.normalizer
    stored["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    stored["model"]["ignore_merges"] = known.ignore_merges
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    special = {"eos_token": "<|end|>", "bos_token": "<|start|>", "pad_token": "<|end|>"}
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **special})
    )


def gpt2() -> PreTrainedModel:
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config)


def llama(**rest: Any) -> Callable[[], PreTrainedModel]:
    return lambda: LlamaForCausalLM(LlamaConfig(vocab_size=300, **(SHAPE | rest)))


def smollm3() -> PreTrainedModel:
    sizes = SHAPE | {"num_hidden_layers": 4}  # the fourth layer has no rotary positions
    return SmolLM3ForCausalLM(SmolLM3Config(vocab_size=300, pad_token_id=298, **sizes))


def qwen2() -> PreTrainedModel:
    return Qwen2ForCausalLM(Qwen2Config(vocab_size=300, **SHAPE))


def qwen3() -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(vocab_size=300, head_dim=16, tie_word_embeddings=True, **SHAPE))


SCALED = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 500000.0, **LLAMA3}
FAMILIES: dict[str, tuple[Callable[[], PreTrainedModel], str]] = {
    "gpt2": (gpt2, "gpt-2"),
    "smollm2": (llama(tie_word_embeddings=True), "smollm"),
    "llama3": (llama(rope_parameters=SCALED, max_position_embeddings=16384), "llama-bpe"),
    "smollm3": (smollm3, "llama-bpe"),
    "qwen2": (qwen2, "qwen2"),
    "qwen3": (qwen3, "qwen2"),
}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A random model of a family as transformers saves it."""
    return make_folder(tmp_path / "model", request.param)


def make_folder(folder: Path, family: str) -> Path:
    build, pre = FAMILIES[family]
    torch.manual_seed(5)
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # also norms and biases must differ from what they start with
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.generation_config.update(bos_token_id=299, eos_token_id=298, pad_token_id=298)
    model.config.update({"bos_token_id": 299, "eos_token_id": 298})
    model.save_pretrained(folder)
    tokenizer_files(folder, pre)
    return folder


def round_trip(folder: Path, kind: gguf_export.Kind = "f32") -> Path:
    file, back = folder.parent / "model.gguf", folder.parent / "back"
    gguf_export.export(folder, file, kind)
    gguf_import.unpack(file, back)
    return back


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    ids = torch.arange(280, 298).repeat(2)[None]
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()(ids).logits


def test_a_folder_survives_gguf(folder: Path) -> None:
    back = round_trip(folder)
    before, after = (load_file(path / "model.safetensors") for path in (folder, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits(folder), logits(back))
    first, second = (AutoTokenizer.from_pretrained(path) for path in (folder, back))
    assert [first.encode(text) for text in TEXTS] == [second.encode(text) for text in TEXTS]
    assert second.eos_token_id == 298
    assert second.bos_token_id == 299
    chat = [{"role": "user", "content": "Hello"}]
    assert first.apply_chat_template(chat, tokenize=False) == second.apply_chat_template(chat, tokenize=False)


def test_a_published_folder_is_exported_as_ours_is(tmp_path: Path) -> None:
    """Names without the prefix, masks, shards, bf16, few keys in config.json, and a chat template in its own file."""
    ours, published = make_folder(tmp_path / "ours", "gpt2"), tmp_path / "published"
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(ours / "model.safetensors").items()}
    save_file(tensors, ours / "model.safetensors", metadata={"format": "pt"})
    shutil.copytree(ours, published)
    (published / "model.safetensors").unlink()
    short = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    short["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    names = sorted(short)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: short[name] for name in part}, published / file, metadata={"format": "pt"})
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((ours / "config.json").read_text())
    kept = ("architectures", "model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    kept += ("bos_token_id", "eos_token_id")
    (published / "config.json").write_text(json.dumps({key: config[key] for key in kept}))
    settings = json.loads((ours / "tokenizer_config.json").read_text())
    (published / "chat_template.jinja").write_text(settings.pop("chat_template"))
    (published / "tokenizer_config.json").write_text(json.dumps(settings))
    for folder in (ours, published):
        gguf_export.export(folder, tmp_path / f"{folder.name}.gguf", "f32")
    assert (tmp_path / "ours.gguf").read_bytes() == (tmp_path / "published.gguf").read_bytes()


@pytest.mark.parametrize("added", [{}, {"<|a|>": 300, "<|b|>": 301}], ids=["none", "two"])
def test_a_folder_without_a_tokenizer_json_is_exported_as_one_with_it(
    tmp_path: Path, vocabulary: Path, added: dict[str, int]
) -> None:
    pair, ours, theirs = (tmp_path / name for name in ("pair", "ours", "theirs"))
    GPT2LMHeadModel(GPT2Config(vocab_size=302, n_positions=64, n_embd=32, n_layer=2, n_head=4)).save_pretrained(pair)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(vocabulary / name, pair / name)
    edit(pair / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer", eos_token=[*added, "<|endoftext|>"][0])
    if added:
        edit(pair / "added_tokens.json", **added)
    for folder in (ours, theirs):
        shutil.copytree(pair, folder)
    adopt(pair, tmp_path / "adopted")
    shutil.copyfile(tmp_path / "adopted/tokenizer.json", ours / "tokenizer.json")
    AutoTokenizer.from_pretrained(pair).save_pretrained(tmp_path / "saved")
    shutil.copyfile(tmp_path / "saved/tokenizer.json", theirs / "tokenizer.json")
    files = []
    for folder in (pair, ours, theirs):
        assert (folder / "tokenizer.json").is_file() == (folder != pair)
        gguf_export.export(folder, tmp_path / f"{folder.name}.gguf", "f32")
        files.append((tmp_path / f"{folder.name}.gguf").read_bytes())
    assert files[1:] == files[:1] * 2
    assert fields(tmp_path / "pair.gguf")["tokenizer.ggml.tokens"][299:] == ["<|endoftext|>", *(added or PADDING)]
    assert tokenized(tmp_path / "pair.gguf", TEXTS[1]) == Tokenizer.load(pair).encode(TEXTS[1])


def test_added_tokens_before_the_others_keep_their_ids_in_transformers(tmp_path: Path) -> None:
    """As in SmolLM2. The tokens that are not special are in the middle, after an id without a token."""
    folder, file, back, saved = (tmp_path / name for name in ("model", "a.gguf", "back", "saved"))
    tiny_tokenizers.make("smollm2", folder)
    LlamaForCausalLM(LlamaConfig(vocab_size=705, **SHAPE)).save_pretrained(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    stored = json.loads((folder / "tokenizer.json").read_text())
    for number, token in ((701, "<caf\u00e9 1>"), (703, "<tool>")):
        stored["model"]["vocab"][token] = number
        stored["added_tokens"].append(stored["added_tokens"][0] | {"id": number, "content": token, "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    gguf_export.export(folder, file, "f32")
    assert set(fields(file)["tokenizer.ggml.token_type"]) == {1, 3, 4, 5}
    gguf_import.unpack(file, back)
    save_model(load_model(back), back, saved, source=back)
    ours, chat = Tokenizer.load(back), [{"role": "user", "content": "the <tool> of 12 <caf\u00e9 1>"}]
    assert ours.special == Tokenizer.load(folder).special
    assert [ours.special[token] for token in ("<|endoftext|>", "<|im_end|>", "<tool>")] == [0, 2, 703]
    assert ours.chat is not None
    segments = [Segment(segment.text, special=True) for segment in ours.chat.render(chat, True)]
    expected = ours.encode_segments(segments)[0]
    for one in (folder, back, saved):
        theirs = AutoTokenizer.from_pretrained(one)
        assert {token: theirs.convert_tokens_to_ids(token) for token in ours.special} == ours.special
        found = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert found == expected
        assert theirs.decode(found) == ours.decode(found)


PADDING = ["[PAD300]", "[PAD301]"]
BEGIN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|start|>": {"id": "<|start|>", "ids": [299], "tokens": ["<|start|>"]}},
}


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON object in a file."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(stored | changes))


def fields(path: Path) -> dict[str, Any]:
    """The metadata of a GGUF file."""
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


def test_the_begin_of_a_text_is_the_tokenizers_after_an_import_too(tmp_path: Path) -> None:
    folder, ours = make_folder(tmp_path / "model", "smollm2"), tmp_path / "ours"
    edit(folder / "tokenizer.json", post_processor=BEGIN)
    (folder / "generation_config.json").unlink()
    save_model(load_model(folder), folder, ours)
    assert json.loads((ours / "config.json").read_text())["bos_token_id"] == 299
    edit(ours / "config.json", bos_token_id=298)  # as an older version wrote it
    gguf_export.export(ours, file := tmp_path / "a.gguf", "f32")
    assert (fields(file)["tokenizer.ggml.bos_token_id"], fields(file)["tokenizer.ggml.add_bos_token"]) == (299, True)
    gguf_import.unpack(file, tmp_path / "back")
    expected = Tokenizer.load(folder).encode_prompt("sun")
    assert expected[0] == 299
    assert Tokenizer.load(tmp_path / "back").encode_prompt("sun") == expected
    assert tokenized(file, "sun", add_special=True) == expected


def assert_same_prompts(folder: Path, file: Path) -> None:
    """A model folder, its file read back, and llama.cpp give the same tokens."""
    gguf_import.unpack(file, file.with_name("back"))
    expected, found = Tokenizer.load(folder), Tokenizer.load(file.with_name("back"))
    for text in TEXTS:
        assert found.encode_prompt(text) == expected.encode_prompt(text)
        assert tokenized(file, text, add_special=True, parse_special=False) == found.encode_prompt(text)


def test_published_files_of_smollm3_have_the_tokenizer_of_its_folder(tmp_path: Path) -> None:
    folder, file = make_folder(tmp_path / "model", "smollm3"), tmp_path / "a.gguf"
    write_variant(folder, file, settings={"tokenizer.ggml.pre": "smaug-bpe", ADD_BOS: None})
    assert_same_prompts(folder, file)


@pytest.mark.parametrize("add_bos", [True, False, None])
def test_published_files_of_deepseek_r1_distill_qwen_have_the_tokenizer_of_its_folder(
    tmp_path: Path, add_bos: bool | None
) -> None:
    """Qwen's pattern; what differs from Qwen is that most files put the begin of a text before it."""
    folder, file = make_folder(tmp_path / "model", "qwen2"), tmp_path / "a.gguf"
    edit(folder / "tokenizer.json", post_processor=BEGIN if add_bos else None)
    write_variant(folder, file, settings={"tokenizer.ggml.pre": "deepseek-r1-qwen", ADD_BOS: add_bos})
    assert_same_prompts(folder, file)


@pytest.mark.parametrize(("family", "added"), [("llama3", True), ("smollm2", False)])
def test_the_begin_of_a_text_is_llama_cpps_where_the_file_does_not_say(
    tmp_path: Path, family: str, added: bool
) -> None:
    write_variant(make_folder(tmp_path / "model", family), file := tmp_path / "a.gguf", settings={ADD_BOS: None})
    gguf_import.unpack(file, tmp_path / "back")
    found = Tokenizer.load(tmp_path / "back")
    assert found.bos == (299 if added else None)
    assert tokenized(file, "sun", add_special=True) == found.encode_prompt("sun")


ADD_BOS = "tokenizer.ggml.add_bos_token"


@pytest.mark.parametrize(
    ("ends", "left_out"), [([298, 299, 198], []), ([298, 299, 198, 199], 199), (None, []), (298, [])]
)
def test_the_tokens_that_end_a_text_survive_gguf(tmp_path: Path, ends: Any, left_out: Any) -> None:
    folder = make_folder(tmp_path / "model", "smollm2")
    edit(folder / "generation_config.json", eos_token_id=ends)
    ours = Tokenizer.load(folder)
    gone = gguf_export.export(folder, tmp_path / "a.gguf", "f32")
    assert gone == ([ours.decode([left_out])] if left_out else [])
    gguf_import.unpack(tmp_path / "a.gguf", tmp_path / "back")
    assert Tokenizer.load(tmp_path / "back").stops == ours.stops - ({left_out} if left_out else set())
    assert len(ours.stops) == (len(ends) if isinstance(ends, list) else 1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"no_rope_layer_interval": 2, "no_rope_layers": [1, 0, 1, 0]}, "no_rope_layer_interval is 2, but readers"),
        ({"no_rope_layers": [1, 1, 1, 1]}, r"no_rope_layers is not \[1, 1, 1, 0\]"),
        ({"no_rope_layer_interval": 3, "no_rope_layers": None}, r"no_rope_layers is not \[1, 1, 1, 0\]"),
        ({"model_type": ["llama"]}, r"model_type is \['llama'\], only"),
        ({"eos_token_id": "x"}, "eos_token_id is 'x', not a token id"),
        ({"hidden_size": "x"}, "hidden_size is 'x', not a whole number"),
    ],
    ids=str,
)
def test_layers_that_no_reader_of_gguf_has_are_not_exported(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    folder = make_folder(tmp_path / "model", "smollm3")
    edit(folder / "config.json", **changes)
    with pytest.raises(UserError) as caught:
        gguf_export.export(folder, tmp_path / "a.gguf", "f32")
    assert re.search(expected, "\n".join(map(str, getattr(caught.value, "problems", [caught.value]))))
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize("bos", [[1, "x"], "x"])
def test_a_begin_of_a_text_that_is_no_token_is_not_exported(tmp_path: Path, bos: Any) -> None:
    folder = make_folder(tmp_path / "model", "smollm2")
    edit(folder / "config.json", bos_token_id=bos)
    (folder / "generation_config.json").unlink()
    edit(folder / "tokenizer_config.json", bos_token=None)
    with pytest.raises(UserError, match=r"config\.json: bos_token_id is "):
        gguf_export.export(folder, tmp_path / "a.gguf", "f32")


@pytest.mark.parametrize(("kind", "value"), [("f16", 1e5), ("q8_0", -1e7)])
def test_a_weight_that_the_type_cannot_hold_is_refused(tmp_path: Path, kind: gguf_export.Kind, value: float) -> None:
    folder = make_folder(tmp_path / "model", "smollm2")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"blk\.1\.ffn_up\.weight holds .*, too large for {kind} \| fix: .*f32"):
        gguf_export.export(folder, tmp_path / "a.gguf", kind)
    assert not (tmp_path / "a.gguf").exists()


@pytest.mark.parametrize(
    ("family", "change", "expected"),
    [
        ("qwen2", lambda stored: stored.update(normalizer=None), "normalizer is null, but"),
        ("smollm2", lambda stored: stored.update(normalizer={"type": "NFC"}), "normalizer is NFC, but"),
        ("llama3", lambda stored: stored["model"].update(ignore_merges=False), "ignore_merges is false, but"),
        ("gpt2", lambda stored: stored["model"].update(ignore_merges=True), "ignore_merges is true, but"),
        ("gpt2", lambda stored: stored.update(pre_tokenizer=dict(BYTES)), None),
    ],
)
def test_a_tokenizer_that_llama_cpp_takes_for_another_is_refused(
    tmp_path: Path, family: str, change: Callable[[dict[str, Any]], Any], expected: str | None
) -> None:
    folder = make_folder(tmp_path / "model", family)
    stored = json.loads((folder / "tokenizer.json").read_text())
    change(stored)
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    if expected is None:
        gguf_export.export(folder, tmp_path / "a.gguf", "f32")
        return
    with pytest.raises(UserError, match=expected):
        gguf_export.export(folder, tmp_path / "a.gguf", "f32")


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}  # as on the Hub, without use_regex


def test_llama_scaling_is_found_from_its_factors(tmp_path: Path) -> None:
    back = round_trip(make_folder(tmp_path / "model", "llama3"))
    scaling = json.loads((back / "config.json").read_text())["rope_scaling"]
    assert scaling == {"rope_type": "llama3", "factor": 8.0, **LLAMA3}


def test_other_rotary_factors_are_refused(tmp_path: Path) -> None:
    odd = rotary_factors(500000.0, 8, {**LLAMA3, "factor": 8.0, "high_freq_factor": 2.0})
    folder = make_folder(tmp_path / "model", "smollm2")
    write_variant(folder, tmp_path / "odd.gguf", tensors={"rope_freqs.weight": odd.numpy()})
    with pytest.raises(UserError, match=r"rope_freqs\.weight is not the rotary scaling of Llama 3"):
        gguf_import.unpack(tmp_path / "odd.gguf", tmp_path / "back")


@pytest.mark.parametrize(("kind", "bound"), [("f16", 2e-3), ("q8_0", 2e-2)])
def test_smaller_types_are_near(folder: Path, kind: gguf_export.Kind, bound: float) -> None:
    before = load_file(folder / "model.safetensors")
    after = load_file(round_trip(folder, kind) / "model.safetensors")
    for name, tensor in before.items():
        assert (after[name] - tensor).abs().max() <= bound * tensor.abs().max(), name
        assert tensor.ndim > 1 or torch.equal(after[name], tensor)  # vectors stay fp32


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_stored_types_are_read(tmp_path: Path, kind: str) -> None:
    folder = make_folder(tmp_path / "model", "smollm2")
    counts = write_variant(folder, tmp_path / "variant.gguf", kind=gguf.GGMLQuantizationType[kind])
    assert gguf_import.unpack(tmp_path / "variant.gguf", tmp_path / "back") == counts
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    bits = {"F32": 24, "F16": 10, "BF16": 7, "Q8_0": 7, "Q5_0": 4, "Q5_1": 4, "Q4_0": 3, "Q4_1": 3}[kind]
    for name, tensor in before.items():
        assert (after[name] - tensor).abs().max() <= tensor.abs().max() * 2.0**-bits, name


def test_a_missing_base_of_the_rotary_positions_is_10000(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", "smollm2")
    write_variant(folder, tmp_path / "old.gguf", settings={"llama.rope.freq_base": None})
    gguf_import.unpack(tmp_path / "old.gguf", tmp_path / "back")
    assert load_model(tmp_path / "back").config.parts == load_model(folder).config.parts
    assert json.loads((tmp_path / "back/config.json").read_text())["rope_theta"] == 10000


def write_variant(
    folder: Path,
    path: Path,
    kind: gguf.GGMLQuantizationType | None = None,
    settings: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> dict[str, int]:
    """Export `folder`, and write it again with other types of matrices, settings (None: left out) or tensors."""
    gguf_export.export(folder, path.with_suffix(".plain"), "f32")
    reader = gguf.GGUFReader(path.with_suffix(".plain"))
    settings = settings or {}
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    name = settings.get("general.architecture", fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(path, name)
    for key, field in fields.items():
        if key not in {"general.architecture", *settings}:
            sub = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], sub)
    for key, value in settings.items():
        if key != "general.architecture" and value is not None:
            add = {str: writer.add_string, int: writer.add_uint32, list: writer.add_array, bool: writer.add_bool}
            add[type(value)](key, value)
    counts: dict[str, int] = {}
    for tensor in reader.tensors:
        values = tensor.data
        stored = kind if kind is not None and values.ndim == 2 else gguf.GGMLQuantizationType.F32
        counts[stored.name] = counts.get(stored.name, 0) + 1
        writer.add_tensor(tensor.name, gguf.quantize(values, stored), raw_dtype=stored)
    for extra, array in (tensors or {}).items():
        writer.add_tensor(extra, array.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dict(sorted(counts.items()))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"general.architecture": "mamba"}, "general.architecture is 'mamba'"),
        ({"llama.expert_count": 8}, "llama.expert_count is 8, which is not supported"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.type is 'yarn'"),
        ({"llama.attention.sliding_window": 4096}, "llama.attention.sliding_window is 4096"),
        ({"llama.block_count": None}, "llama.block_count is missing"),
        ({"llama.feed_forward_length": None}, "llama.feed_forward_length is missing"),
        ({"tokenizer.ggml.eos_token_id": None}, "tokenizer.ggml.eos_token_id is missing"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count is 4, not the 8"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is 'llama', not the byte-level BPE"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "tokenizer.ggml.pre is 'deepseek-llm'"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre is ''"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.tokens, token_type or merges is missing"),
        ({"tokenizer.ggml.token_type": [1, 1]}, "has 300 tokens, but token_type 2"),
        ({"tokenizer.ggml.eos_token_id": 300}, "eos_token_id is 300, but there are 300 tokens"),
        ({"tokenizer.ggml.eos_token_id": [1, 2]}, "eos_token_id is [1, 2], but there are 300 tokens"),
        ({"tokenizer.ggml.bos_token_id": "x"}, "bos_token_id is 'x', but there are 300 tokens"),
        ({"tokenizer.ggml.add_eos_token": True}, "tokenizer.ggml.add_eos_token is true, which is not supported"),
        ({"tokenizer.ggml.pre": [1]}, "tokenizer.ggml.pre is '[1]', not one of"),
        ({"tokenizer.ggml.merges": [1, 2]}, "tokenizer.ggml.tokens, token_type or merges is missing, or of another"),
        ({"llama.attention.head_count": [4, 4]}, "llama.attention.head_count is [4, 4], not a whole number above 0"),
        ({"llama.attention.head_count_kv": "2"}, "llama.attention.head_count_kv is '2', not a whole number above 0"),
        ({"llama.attention.head_count": 0}, "llama.attention.head_count is 0, not a whole number above 0"),
        ({"llama.embedding_length": "32"}, "llama.embedding_length is '32', not a whole number above 0"),
        ({"llama.rope.freq_base": 0}, "llama.rope.freq_base is 0, not a number above 0"),
        ({"split.count": 2}, "split.count is 2: it is one of several files"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_key(tmp_path: Path, settings: dict[str, Any], expected: str) -> None:
    folder = make_folder(tmp_path / "model", "smollm2")
    write_variant(folder, tmp_path / "odd.gguf", settings=settings)
    with pytest.raises(UserError) as caught:
        gguf_import.unpack(tmp_path / "odd.gguf", tmp_path / "back")
    assert expected in str(caught.value)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("settings", "tensors", "expected"),
    [
        (
            {"llama.attention.head_count": 5},
            {},
            r"llama\.attention\.head_count_kv: 2 does not divide llama\..*head_count",
        ),
        ({"llama.embedding_length": 40}, {}, r"token_embd\.weight has the shape \(300, 32\), not \(300, 40\)"),
        ({"llama.feed_forward_length": 48}, {}, r"blk\.0\.ffn_.*has the shape .*, not .*48"),
        ({}, {"blk.0.attn_q.bias": np.ones(32)}, r"blk\.0\.attn_q\.bias is not a tensor of this Llama"),
        ({}, {"noise": np.ones(3)}, "noise is not a tensor of this Llama"),
        ({"tokenizer.ggml.merges": ["a b"]}, {}, r"tokenizer\.ggml\.merges\[0\] joins 'a' and 'b'"),
    ],
    ids=str,
)
def test_what_the_folder_does_not_allow_is_told_in_the_files_names(
    tmp_path: Path, settings: dict[str, Any], tensors: dict[str, Any], expected: str
) -> None:
    file, back = tmp_path / "odd.gguf", tmp_path / "work/gguf"
    write_variant(make_folder(tmp_path / "model", "smollm2"), file, settings=settings, tensors=tensors)
    gguf_import.unpack(file, back)
    with pytest.raises(UserError) as caught, gguf_import.as_stored(file, back):
        print(load_model(back), Tokenizer.load(back))
    lines = [str(problem) for problem in getattr(caught.value, "problems", [caught.value])]
    assert re.search(expected, lines[0])
    assert all(line.startswith(f"{file}: ") and "self_attn" not in line for line in lines)


def test_rotary_factors_of_another_length_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", "smollm2")
    write_variant(folder, tmp_path / "odd.gguf", tensors={"rope_freqs.weight": np.ones(3)})
    with pytest.raises(UserError, match=r"rope_freqs\.weight is not the rotary scaling"):
        gguf_import.unpack(tmp_path / "odd.gguf", tmp_path / "back")


def test_overlapping_tensors_and_damaged_texts_are_refused(tmp_path: Path) -> None:
    gguf_export.export(make_folder(tmp_path / "model", "smollm2"), file := tmp_path / "a.gguf", "f32")
    raw, reader = file.read_bytes(), gguf.GGUFReader(file)
    first, second = (
        next(t for t in reader.tensors if t.name == f"blk.0.{name}.weight") for name in ("attn_k", "attn_v")
    )
    at = [int(t.field.offset) + sum(int(part.nbytes) for part in t.field.parts) - 8 for t in (first, second)]
    key = raw.index(b"tokenizer.chat_template") + 60
    for place, data in ((at[1], raw[at[0] : at[0] + 8]), (key, b"\xff")):
        file.write_bytes(raw[:place] + data + raw[place + len(data) :])
        with pytest.raises(UserError, match="not a readable GGUF file"):
            gguf_import.unpack(file, tmp_path / "back")


@pytest.mark.parametrize("keep", [3, 30, 2000, -100])
def test_damaged_file_is_refused(tmp_path: Path, keep: int) -> None:
    folder = make_folder(tmp_path / "model", "smollm2")
    gguf_export.export(folder, tmp_path / "a.gguf", "f32")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "a.gguf").read_bytes()[:keep])
    with pytest.raises(UserError, match="not a readable GGUF file"):
        gguf_import.unpack(tmp_path / "cut.gguf", tmp_path / "back")


def test_classifiers_are_not_exported(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model", "gpt2")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["GPT2ForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="GPT2ForSequenceClassification"):
        gguf_export.export(folder, tmp_path / "a.gguf", "f32")
    assert not (tmp_path / "a.gguf").exists()


# llama.cpp itself


def tokenized(path: Path, text: str, **options: Any) -> list[int]:
    """llama.cpp's ids of a text."""
    pytest.importorskip("xllamacpp", reason="the extra `llamacpp` is not installed")
    ids: list[int] = LlamaCpp(path, context=64).post("/tokenize", {"content": text, **options})["tokens"]
    return ids


@pytest.fixture
def llama_cpp(folder: Path) -> LlamaCpp:
    pytest.importorskip("xllamacpp", reason="the extra `llamacpp` is not installed")
    gguf_export.export(folder, folder.parent / "model.gguf", "f32")
    return LlamaCpp(folder.parent / "model.gguf", context=128)


def test_llama_cpp_reads_and_continues_as_transformers_do(llama_cpp: LlamaCpp, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert llama_cpp.post("/tokenize", {"content": text, "parse_special": True})["tokens"] == ids
        expected = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, pad_token_id=298)
        told = [token for token in llama_cpp.complete(ids, 12) if token != 298]
        assert told == [token for token in expected[0, len(ids) :].tolist() if token != 298]
