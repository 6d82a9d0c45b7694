"""Write a model folder as one GGUF file, which llama.cpp and Ollama run.

Reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from llm.common.errors import DATA, UserError, raise_all
from llm.common.files import atomic_path, read_json
from llm.data import special_tokens
from llm.data.tokenizer import Tokenizer, adopt
from llm.model.config import ModelConfig
from llm.model.parts import FAMILIES
from llm.weights import families, gpt2, model_folder
from llm.weights.gguf_tables import ARCHITECTURES, ENDS, PRE_TOKENIZERS, Architecture, renamed, rotary_factors

if TYPE_CHECKING:
    from gguf import GGUFWriter

Kind = Literal["f32", "f16", "q8_0"]
# Weights that share a scale in Q8_0, and their bytes; the rows of a matrix must be a multiple. The scale comes first.
Q8_BLOCK, Q8_BYTES = 32, 34
# What decides how a step of a pre-tokenizer cuts a text, and what a missing key means.
DECIDES = {"type": None, "pattern": None, "behavior": None, "individual_digits": False}
DECIDES |= {"use_regex": True, "add_prefix_space": True}


def export(folder: Path, path: Path, kind: Kind) -> list[str]:
    """Write the model, the tokenizer and the chat template of `folder` to the GGUF file `path`, atomically.

    `kind` is the type of the matrices; vectors are always fp32. Returns the tokens that end a text but for which GGUF
    has no key. Raises UserError for a folder that is not a language model, as `model_folder.load_model` does, or whose
    layers or tokenizer llama.cpp does not know.
    """
    from gguf import GGUFWriter

    where = str(folder / "config.json")
    config = read_json(folder / "config.json")
    family = families.parse_config(config, where).family
    architecture = ARCHITECTURES[family]
    if config.get("architectures") != [architecture.architectures]:
        what = f"describes {config.get('architectures')}, not one of the language models that can be exported"
        fix = f"name a folder with one of {', '.join(one.architectures for one in ARCHITECTURES.values())}"
        raise UserError(where, what, fix, DATA)
    model = model_folder.load_model(folder)  # in any layout that can be read, such as shards
    config |= families.published(model.config)
    raise_all(list(_other_layers(model.config, architecture, config, where)))
    tensors = families.export(model)
    with atomic_path(path) as temporary:
        writer = GGUFWriter(temporary, family)
        writer.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[kind])
        _add_settings(writer, architecture, config)
        left_out = _add_tokenizer(writer, folder, config)
        for name, tensor in _renamed(tensors, architecture, config):
            _add_tensor(writer, name, tensor, kind, str(folder))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return left_out


def _other_layers(
    model: ModelConfig, architecture: Architecture, config: Mapping[str, Any], where: str
) -> Iterator[UserError]:
    """A problem for each setting that a GGUF file does not hold, and that its readers take to be another one."""
    fix = "run it with `llm serve`, or transformers"
    for key, value in architecture.fixed.items():
        same = gpt2.SUPPORTED[key] if key == "activation_function" else (value,)  # names of one function
        if config.get(key, value) not in same:
            yield UserError(where, f"{key} is {config[key]!r}, but readers of GGUF take it to be {value!r}", fix, DATA)
    own, usual = model.parts.rope, FAMILIES[model.family].rope
    layers = range(model.n_layer) if own and usual else ()
    if own and usual and any(own.rotates(layer) != usual.rotates(layer) for layer in layers):
        flags = [int(usual.rotates(layer)) for layer in layers]
        what = f"no_rope_layers is not {flags!r:.60}, which readers of GGUF take it to be"
        yield UserError(where, what, fix, DATA)


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
    older = {"rope_theta": config.get("rope_theta")} | (config.get("rope_scaling") or {})
    return config.get("rope_parameters") or older


def _renamed(
    tensors: Mapping[str, Tensor], architecture: Architecture, config: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    names = {theirs: ours for ours, theirs in architecture.modules.items()}
    heads = {"attn_q": config.get("num_attention_heads"), "attn_k": config.get("num_key_value_heads")}
    for name, tensor in tensors.items():
        module, _, kind = name.rpartition(".")
        ours = renamed(module, names)
        assert ours is not None
        in_block, _, part = ours.rpartition(".")
        rows = tensor.t() if architecture.transposed and in_block and tensor.ndim == 2 else tensor
        if architecture.interleaved and part in heads:
            rows = _pairs(rows, heads[part] or config["num_attention_heads"])
        yield f"{ours}.{kind}", rows
    scaling = _rotary(config)
    if scaling.get("rope_type") == "llama3":
        width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        yield "rope_freqs.weight", rotary_factors(scaling["rope_theta"], width, scaling)


def _pairs(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head from (0, D/2), (1, D/2 + 1), ... to rotary pairs (0, 1), (2, 3), ..."""
    return rows.view(heads, 2, -1, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _add_tensor(writer: GGUFWriter, name: str, tensor: Tensor, kind: Kind, where: str) -> None:
    from gguf import GGMLQuantizationType, quantize

    values = tensor.to(torch.float32).contiguous().numpy()
    if kind == "f32" or values.ndim == 1 or name.startswith("position_embd"):
        writer.add_tensor(name, values)
        return
    with np.errstate(over="ignore", invalid="ignore"):
        if kind == "f16" or values.shape[-1] % Q8_BLOCK:
            kind, stored, q8 = "f16", values.astype(np.float16), None
            halves = stored
        else:
            q8 = GGMLQuantizationType.Q8_0
            stored = quantize(values, q8)
            halves = stored.reshape(-1, Q8_BYTES)[:, :2].copy().view(np.float16)  # the scales
    if not np.isfinite(halves).all():
        largest = float(np.abs(values).max())
        raise UserError(where, f"{name} holds {largest:.6g}, too large for {kind}", "use --type f32", DATA)
    writer.add_tensor(name, stored, raw_dtype=q8)


def _add_tokenizer(writer: GGUFWriter, folder: Path, config: Mapping[str, Any]) -> list[str]:
    from gguf import TokenType

    tokenizer, stored = Tokenizer.load(folder), _tokenizer_json(folder)
    added = {token["content"]: token for token in stored["added_tokens"]}
    vocabulary = stored["model"]["vocab"] | {content: token["id"] for content, token in added.items()}
    tokens = {number: token for token, number in vocabulary.items()}
    control = {token for token, one in added.items() if one["special"]}
    control |= {special_tokens.END_OF_TEXT, *special_tokens.names(folder).values()}  # special for transformers too
    kinds = {token: TokenType.CONTROL if token in control else TokenType.USER_DEFINED for token in added}
    rows = range(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(stored, tokenizer.nfc, str(folder / "tokenizer.json")))
    writer.add_token_list([tokens.get(row, f"[PAD{row}]") for row in rows])
    writer.add_token_types(
        [kinds.get(tokens[row], TokenType.NORMAL) if row in tokens else TokenType.UNUSED for row in rows]
    )
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in stored["model"]["merges"]])
    ends = [*tokenizer.ends, *sorted(tokenizer.stops - set(tokenizer.ends))]
    ids = {"bos": tokenizer.begin_id(folder)} | dict(zip(ENDS, ends, strict=False))
    padding = special_tokens.read_object(folder / "generation_config.json").get("pad_token_id")
    if type(padding) is int and padding in tokens:
        ids["padding"] = padding
    for key, number in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", number)
    writer.add_add_bos_token(tokenizer.bos is not None)
    writer.add_add_space_prefix(False)
    if tokenizer.chat:
        writer.add_chat_template(tokenizer.chat.source)
    return [tokenizer.decode([number]) for number in ends[len(ENDS) :]]


def _tokenizer_json(folder: Path) -> Any:
    """The object in `tokenizer.json`; for a folder without one, that of its `vocab.json` and `merges.txt`."""
    if (folder / "tokenizer.json").is_file():
        return read_json(folder / "tokenizer.json")
    with tempfile.TemporaryDirectory() as made:
        adopt(folder, Path(made))
        return read_json(Path(made) / "tokenizer.json")


def _pre_tokenizer(stored: Mapping[str, Any], nfc: bool, where: str) -> str:
    """llama.cpp's name of the pre-tokenizer in a `tokenizer.json`."""
    fix = "export another model"

    def core(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: step.get(key, DECIDES[key]) for key in DECIDES} for step in steps]

    found = stored["pre_tokenizer"] or {}
    steps = core(found.get("pretokenizers", [found]))
    name = next((name for name, known in PRE_TOKENIZERS.items() if steps == core(known.steps)), None)
    if name is None:
        raise UserError(where, f"pre_tokenizer {steps!r:.80} has no name in llama.cpp", fix, DATA)
    known, problems = PRE_TOKENIZERS[name], []
    if nfc != (known.normalizer is not None):
        problems.append(f"normalizer is {'NFC' if nfc else 'null'}")
    if bool(stored["model"].get("ignore_merges")) != known.ignore_merges:
        problems.append(f"ignore_merges is {str(not known.ignore_merges).lower()}")
    wrong = [f"{what}, but llama.cpp takes it to be different with this pre_tokenizer ({name})" for what in problems]
    raise_all([UserError(where, what, fix, DATA) for what in wrong])
    return name
