"""Read a GGUF file, the format of llama.cpp and Ollama, into a folder in Hugging Face's format.

Quantized weights become fp32. Reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llm.common.errors import DATA, UserError, raise_all
from llm.common.files import write_json
from llm.weights.gguf_tables import (
    ABSENT,
    ALIASES,
    ARCHITECTURES,
    DERIVED,
    LLAMA3,
    PRE_TOKENIZERS,
    Architecture,
    rotary_factors,
)
from llm.weights.tensors import write_tensors

if TYPE_CHECKING:
    from gguf import GGUFReader

Metadata = Mapping[str, Any]
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens
FIX = "use a GGUF file of a text model, or its folder from Hugging Face"


def unpack(path: Path, folder: Path) -> dict[str, int]:
    """Write config, tokenizer and fp32 weights of a GGUF file to `folder`; return the tensors of each stored type.

    Raises UserError that names the key for what is not supported: other architectures, rotary scalings, tokenizers,
    or a type that cannot be dequantized.
    """
    reader = _open(path)
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    where = str(path)
    name = metadata.get("general.architecture")
    if name not in ARCHITECTURES:
        what = f"general.architecture is {name!r:.40}, not one of {', '.join(ARCHITECTURES)}"
        raise UserError(where, what, FIX, DATA)
    architecture = ARCHITECTURES[str(name)]
    tensors = _tensors(reader, architecture, metadata, where)
    config = _config(str(name), architecture, metadata, where)
    if (factors := tensors.pop("rope_freqs.weight", None)) is not None:
        config |= _rotary_scaling(factors, config, where)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    tokenizer, tokenizer_config, generation = _tokenizer(metadata, config, where)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config | generation)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    write_tensors(folder / "model.safetensors", tensors)
    return dict(sorted(Counter(tensor.tensor_type.name for tensor in reader.tensors).items()))


def _open(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except Exception as error:  # the package raises many kinds for a damaged file
        what = f"not a readable GGUF file ({path.stat().st_size} bytes): {type(error).__name__}: {error}"
        raise UserError(str(path), what, "download it again", DATA) from None


def _config(name: str, architecture: Architecture, metadata: Metadata, where: str) -> dict[str, Any]:
    """The `config.json`; raises UserError for every missing key and every key that changes the arithmetic."""
    own = {key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")}
    optional = {"feed_forward_length": None, "attention.head_count_kv": own.get("attention.head_count")}
    if not architecture.transposed and own.get("attention.head_count"):
        heads = own.get("embedding_length", 0) // own["attention.head_count"]
        optional["attention.key_length"] = own.get("rope.dimension_count", heads)
    known = {*architecture.settings, *DERIVED, *optional}
    wrong = [f"{name}.{key} is missing" for key in architecture.settings if key not in own and key not in optional]
    wrong += [
        f"{name}.{key} is {value!r:.60}, which is not supported"
        for key, value in own.items()
        if key not in known and value not in ABSENT.get(key, ())
    ]
    width = own.get("attention.key_length", optional.get("attention.key_length"))
    for key in ("rope.dimension_count", "attention.value_length"):
        if width is not None and own.get(key, width) != width:
            wrong.append(f"{name}.{key} is {own[key]}, not the {width} of attention.key_length, which is not supported")
    raise_all([UserError(where, what, FIX, DATA) for what in wrong])
    values = {theirs: _exact(own.get(key, optional.get(key))) for key, theirs in architecture.settings.items()}
    return {
        "architectures": [architecture.architectures],
        "model_type": name,
        "vocab_size": len(metadata.get("tokenizer.ggml.tokens", [])),
        **values,
        **architecture.fixed,
        "torch_dtype": "float32",
    }


def _exact(value: Any) -> Any:
    """GGUF stores fp32: 1e-5 reads as 9.99999974e-06. Return the shortest decimal number that is the same in fp32."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _tensors(reader: GGUFReader, architecture: Architecture, metadata: Metadata, where: str) -> dict[str, Tensor]:
    from gguf import dequantize

    heads = metadata.get(f"{metadata['general.architecture']}.attention.head_count", 1)
    groups = metadata.get(f"{metadata['general.architecture']}.attention.head_count_kv", heads)
    found: dict[str, Tensor] = {}
    wrong = []
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        try:
            values = dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
        except (NotImplementedError, ValueError) as error:
            wrong.append(f"{tensor.name}: type {tensor.tensor_type.name} cannot be read: {error}")
            continue
        weights = torch.from_numpy(np.array(values))
        part = tensor.name.split(".")[-2]
        if architecture.interleaved and part in ("attn_q", "attn_k"):
            weights = _halves(weights, heads if part == "attn_q" else groups)
        if architecture.transposed and tensor.name.startswith("blk.") and weights.ndim == 2:
            weights = weights.t().contiguous()
        found[published_name(tensor.name, architecture)] = weights
    raise_all([UserError(where, what, FIX, DATA) for what in wrong])
    return found


def published_name(name: str, architecture: Architecture) -> str:
    """Hugging Face's name of a tensor of a GGUF file; an unknown name stays, and the import refuses it."""
    path, _, kind = name.rpartition(".")
    if path in architecture.tensors:
        return f"{architecture.tensors[path]}.{kind}"
    block, _, rest = path.removeprefix("blk.").partition(".")
    if path.startswith("blk.") and rest in architecture.layer_tensors:
        return f"{architecture.layers}{block}.{architecture.layer_tensors[rest]}.{kind}"
    return name


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head from rotary pairs (0, 1), (2, 3), ... to (0, D/2), (1, D/2 + 1), ..."""
    return rows.view(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _rotary_scaling(factors: Tensor, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The published settings of Llama 3's rotary scaling, of which GGUF stores a factor for each frequency."""
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3}
    if not torch.allclose(rotary_factors(config["rope_theta"], config["head_dim"], scaling), factors, rtol=1e-5):
        raise UserError(where, "rope_freqs.weight is not the rotary scaling of Llama 3", FIX, DATA)
    return {"rope_scaling": scaling}


def _tokenizer(
    metadata: Metadata, config: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """`tokenizer.json`, `tokenizer_config.json` and `generation_config.json`."""
    raise_all(list(_tokenizer_problems(metadata, where)))
    prefix = "tokenizer.ggml."
    tokens, kinds = metadata[f"{prefix}tokens"], metadata[f"{prefix}token_type"]
    pre = PRE_TOKENIZERS[_pre_tokenizer(metadata)]
    added = [
        {
            "id": number,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    names = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "pad_token": "padding_token_id"}
    ids = {name: metadata.get(prefix + key) for name, key in names.items()}
    special = {name: tokens[number] for name, number in ids.items() if number is not None}
    template = metadata.get("tokenizer.chat_template")
    begins = bool(metadata.get(f"{prefix}add_bos_token")) and "bos_token" in special
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": pre.normalizer,
        "pre_tokenizer": pre.steps[0] if len(pre.steps) == 1 else {"type": "Sequence", "pretokenizers": pre.steps},
        "post_processor": _begin_with(special["bos_token"], metadata[f"{prefix}bos_token_id"]) if begins else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": {t: n for n, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == NORMAL},
            "merges": [merge.split(" ") for merge in metadata[f"{prefix}merges"]],
        },
    }
    found = [metadata.get(f"{prefix}{key}_token_id") for key in ("eos", "eot")]
    ends = list(dict.fromkeys(end for end in found if end is not None))
    generation = {
        "bos_token_id": ids["bos_token"],
        "eos_token_id": ends[0] if len(ends) == 1 else ends,
        "pad_token_id": ids["pad_token"],
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.get("max_position_embeddings", config.get("n_positions")),
        "clean_up_tokenization_spaces": False,
        **special,
        **({"chat_template": template} if template else {}),
    }
    return tokenizer, tokenizer_config, {key: value for key, value in generation.items() if value not in (None, [])}


def _tokenizer_problems(metadata: Metadata, where: str) -> Iterator[UserError]:
    model, pre = metadata.get("tokenizer.ggml.model"), _pre_tokenizer(metadata)
    tokens, kinds, merges = (metadata.get(f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "merges"))
    if model != "gpt2":
        what = f"tokenizer.ggml.model is {model!r:.40}, not the byte-level BPE 'gpt2'"
        yield UserError(where, what, FIX, DATA)
    elif pre not in PRE_TOKENIZERS:
        what = f"tokenizer.ggml.pre is {pre!r:.40}, not one of {', '.join(PRE_TOKENIZERS)}"
        yield UserError(where, what, FIX, DATA)
    elif not (isinstance(tokens, list) and isinstance(kinds, list) and isinstance(merges, list)):
        yield UserError(where, "tokenizer.ggml.tokens, token_type or merges is missing", FIX, DATA)
    elif len(tokens) != len(kinds):
        what = f"tokenizer.ggml.tokens has {len(tokens)} tokens, but token_type {len(kinds)}"
        yield UserError(where, what, "download it again", DATA)
    elif unknown := set(kinds) - {NORMAL, CONTROL, USER_DEFINED, UNUSED}:
        yield UserError(where, f"tokenizer.ggml.token_type holds {min(unknown)}, which is not supported", FIX, DATA)
    else:
        for key in ("bos", "eos", "eot", "padding"):
            number = metadata.get(f"tokenizer.ggml.{key}_token_id", 0)
            if not 0 <= number < len(tokens):
                what = f"tokenizer.ggml.{key}_token_id is {number}, but there are {len(tokens)} tokens"
                yield UserError(where, what, "download it again", DATA)


def _pre_tokenizer(metadata: Metadata) -> str:
    """The name of the pre-tokenizer. Old files of GPT-2 do not name it."""
    name = metadata.get("tokenizer.ggml.pre", "gpt-2" if metadata["general.architecture"] == "gpt2" else "")
    return ALIASES.get(name, str(name))


def _begin_with(token: str, number: int) -> dict[str, Any]:
    """The part of `tokenizer.json` that puts a token before each text."""
    start, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = [{"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}]
    return {
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, *second],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
