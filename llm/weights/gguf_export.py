"""Write a model folder as one GGUF file, which llama.cpp and Ollama run.

Reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from llm.common.errors import DATA, UserError
from llm.common.files import atomic_path, read_json
from llm.data import chat_template
from llm.weights import families, model_folder
from llm.weights.gguf_tables import ARCHITECTURES, PRE_TOKENIZERS, Architecture, rotary_factors

if TYPE_CHECKING:
    from gguf import GGUFWriter

Kind = Literal["f32", "f16", "q8_0"]
Q8_BLOCK = 32  # weights that share a scale in Q8_0; the rows of a matrix must be a multiple


def export(folder: Path, path: Path, kind: Kind) -> None:
    """Write the model, the tokenizer and the chat template of `folder` to the GGUF file `path`, atomically.

    `kind` is the type of the matrices; vectors are always fp32. Raises UserError for a folder that is not a language
    model, as `model_folder.load_model` does, or whose tokenizer llama.cpp does not know.
    """
    from gguf import GGUFWriter

    where = str(folder / "config.json")
    config = read_json(folder / "config.json")
    architecture = ARCHITECTURES.get(config.get("model_type"))
    if architecture is None or config.get("architectures") != [architecture.architectures]:
        what = f"describes {config.get('architectures')}, not one of the language models that can be exported"
        fix = f"name a folder with one of {', '.join(one.architectures for one in ARCHITECTURES.values())}"
        raise UserError(where, what, fix, DATA)
    model = model_folder.load_model(folder)  # in any layout that can be read, such as shards
    shape = families.published(model.config, eot=0)
    config |= {key: value for key, value in shape.items() if not key.endswith("_token_id")}
    tensors = families.export(model)
    with atomic_path(path) as temporary:
        writer = GGUFWriter(temporary, config["model_type"])
        writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[kind])
        _add_settings(writer, architecture, config)
        _add_tokenizer(writer, folder, config)
        for name, tensor in _renamed(tensors, architecture, config):
            _add_tensor(writer, name, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _add_settings(writer: GGUFWriter, architecture: Architecture, config: Mapping[str, Any]) -> None:
    name = config["model_type"]
    values: dict[str, Any] = {key: config.get(theirs) for key, theirs in architecture.settings.items()}
    if "feed_forward_length" in values and values["feed_forward_length"] is None:
        values["feed_forward_length"] = 4 * config["n_embd"]
    if not architecture.transposed:
        heads = config["num_attention_heads"]
        width = values["attention.key_length"] or config["hidden_size"] // heads
        values["attention.head_count_kv"] = values["attention.head_count_kv"] or heads
        values["rope.freq_base"] = float(_rotary(config)["rope_theta"])
        values |= {"attention.key_length": width, "attention.value_length": width, "rope.dimension_count": width}
    for key, value in values.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"{name}.{key}", value)
    writer.add_uint32(f"{name}.vocab_size", config["vocab_size"])


def _rotary(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rotary settings, which newer versions of transformers keep in one mapping."""
    return config.get("rope_parameters") or {
        "rope_theta": config.get("rope_theta"),
        **(config.get("rope_scaling") or {}),
    }


def _renamed(
    tensors: Mapping[str, Tensor], architecture: Architecture, config: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    names = {theirs: ours for ours, theirs in architecture.tensors.items()}
    layer_names = {theirs: ours for ours, theirs in architecture.layer_tensors.items()}
    heads = {"attn_q": config.get("num_attention_heads"), "attn_k": config.get("num_key_value_heads")}
    for name, tensor in tensors.items():
        path, _, kind = name.rpartition(".")
        if path in names:
            yield f"{names[path]}.{kind}", tensor
            continue
        layer, _, part = path.removeprefix(architecture.layers).partition(".")
        ours = layer_names[part]
        rows = tensor.t() if architecture.transposed and tensor.ndim == 2 else tensor
        if architecture.interleaved and ours in heads:
            rows = _pairs(rows, heads[ours] or config["num_attention_heads"])
        yield f"blk.{layer}.{ours}.{kind}", rows
    scaling = _rotary(config)
    if scaling.get("rope_type") == "llama3":
        width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        yield "rope_freqs.weight", rotary_factors(scaling["rope_theta"], width, scaling)


def _pairs(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head from (0, D/2), (1, D/2 + 1), ... to rotary pairs (0, 1), (2, 3), ..."""
    return rows.view(heads, 2, -1, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _add_tensor(writer: GGUFWriter, name: str, tensor: Tensor, kind: Kind) -> None:
    from gguf import GGMLQuantizationType, quantize

    values = tensor.to(torch.float32).contiguous().numpy()
    if kind == "f32" or values.ndim == 1 or name.startswith("position_embd"):
        writer.add_tensor(name, values)
    elif kind == "f16" or values.shape[-1] % Q8_BLOCK:
        writer.add_tensor(name, values.astype(np.float16))
    else:
        q8 = GGMLQuantizationType.Q8_0
        writer.add_tensor(name, quantize(values, q8), raw_dtype=q8)


def _add_tokenizer(writer: GGUFWriter, folder: Path, config: Mapping[str, Any]) -> None:
    from gguf import TokenType

    stored = read_json(folder / "tokenizer.json")
    added = {token["content"]: token for token in stored["added_tokens"]}
    vocabulary = stored["model"]["vocab"] | {content: token["id"] for content, token in added.items()}
    tokens = {number: token for token, number in vocabulary.items()}
    kinds = {token: TokenType.CONTROL if one["special"] else TokenType.USER_DEFINED for token, one in added.items()}
    rows = range(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(stored, str(folder / "tokenizer.json")))
    writer.add_token_list([tokens.get(row, f"[PAD{row}]") for row in rows])
    writer.add_token_types(
        [kinds.get(tokens[row], TokenType.NORMAL) if row in tokens else TokenType.UNUSED for row in rows]
    )
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in stored["model"]["merges"]])
    generation = read_json(folder / "generation_config.json") if (folder / "generation_config.json").exists() else {}
    ends = generation.get("eos_token_id", config.get("eos_token_id"))
    ends = ends if isinstance(ends, list) else [ends]
    begin = config.get("bos_token_id")
    ids = {"bos": begin, "eos": ends[0], "eot": ends[1] if len(ends) > 1 else None}
    ids["padding"] = generation.get("pad_token_id")
    for key, number in ids.items():
        if number is not None:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", number)
    writer.add_add_bos_token("TemplateProcessing" in json.dumps(stored.get("post_processor")))
    writer.add_add_space_prefix(False)
    if template := chat_template.load(folder, added):
        writer.add_chat_template(template.source)


def _pre_tokenizer(stored: Mapping[str, Any], where: str) -> str:
    """llama.cpp's name of the pre-tokenizer in a `tokenizer.json`."""
    decides = ("type", "pattern", "behavior", "individual_digits", "use_regex", "add_prefix_space")

    def core(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: step[key] for key in decides if key in step} for step in steps]

    found = stored["pre_tokenizer"] or {}
    steps = core(found.get("pretokenizers", [found]))
    for name, known in PRE_TOKENIZERS.items():
        if steps == core(known.steps):
            return name
    raise UserError(where, f"pre_tokenizer {steps!r:.80} has no name in llama.cpp", "export another model", DATA)
