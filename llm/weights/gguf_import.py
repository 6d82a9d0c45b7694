"""Read a GGUF file, the format of llama.cpp and Ollama, into a folder in Hugging Face's format.

Quantized weights become fp32. Reference: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from llm.common.errors import DATA, UserError, problems_of, raise_all
from llm.common.files import UNROUNDED, read_json, write_json
from llm.weights import gguf_vocabulary
from llm.weights.gguf_tables import ABSENT, ARCHITECTURES, DERIVED, FIX, LLAMA3, Architecture, renamed, rotary_factors
from llm.weights.tensors import write_tensors

if TYPE_CHECKING:
    from gguf import GGUFReader

Metadata = Mapping[str, Any]


def unpack(path: Path, folder: Path) -> dict[str, int]:
    """Write config, tokenizer and fp32 weights of a GGUF file to `folder`; return the tensors of each stored type.

    Raises UserError that names the key for what is not supported: other architectures, rotary scalings, tokenizers,
    or a type that cannot be dequantized.
    """
    reader, metadata = _open(path)
    where = str(path)
    name = str(metadata.get("general.architecture"))
    if name not in ARCHITECTURES:
        what = f"general.architecture is {name!r:.40}, not one of {', '.join(ARCHITECTURES)}"
        raise UserError(where, what, FIX, DATA)
    if (parts := metadata.get("split.count", 1)) not in (0, 1):
        what = f"split.count is {parts!r:.40}: it is one of several files"
        raise UserError(where, what, "join them with `llama-gguf-split --merge`", DATA)
    architecture = ARCHITECTURES[name]
    raise_all(list(gguf_vocabulary.problems(metadata, where)))
    config = _config(name, architecture, metadata, where)
    tensors = _tensors(reader, architecture, config, where)
    if (factors := tensors.pop("rope_freqs.weight", None)) is not None:
        config |= _rotary_scaling(factors, config, where)
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    context = metadata[f"{name}.context_length"]
    tokenizer, tokenizer_config, generation = gguf_vocabulary.files(metadata, context)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config | generation, UNROUNDED)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "tokenizer_config.json", tokenizer_config)
    write_tensors(folder / "model.safetensors", tensors)
    return dict(sorted(Counter(tensor.tensor_type.name for tensor in reader.tensors).items()))


@contextmanager
def as_stored(path: Path, folder: Path) -> Iterator[None]:
    """Let a UserError about a file of `folder`, where `path` was unpacked, name `path` and its keys and tensors."""
    try:
        yield
    except UserError as error:
        name = read_json(folder / "config.json")["model_type"] if (folder / "config.json").is_file() else ""
        raise_all([_stored(one, path, folder, name) for one in problems_of(error)])


def _stored(error: UserError, path: Path, folder: Path, name: str) -> UserError:
    if not error.where.startswith(str(folder)) or name not in ARCHITECTURES:
        return error
    architecture, what = ARCHITECTURES[name], error.what
    names = {theirs: ours for ours, theirs in architecture.modules.items()}
    names |= {theirs: f"{name}.{ours}" for ours, theirs in architecture.settings.items()}
    names |= {"eos_token_id": "tokenizer.ggml.eos_token_id", "config.json": "the metadata"}
    names |= {"model.merges": "tokenizer.ggml.merges", "model.vocab": "tokenizer.ggml.tokens"}
    words = "|".join(re.escape(theirs).replace(r"\.N\.", r"\.\d+\.") for theirs in names)
    what = re.sub(rf"(?<![\w.])(?:{words})(?!\w)", lambda found: str(renamed(found[0], names)), what)
    return UserError(str(path), what, FIX, error.code)


def _open(path: Path) -> tuple[GGUFReader, Metadata]:
    """The file and the values of its keys."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        end = reader.data_offset
        for tensor in sorted(reader.tensors, key=lambda tensor: tensor.data_offset):
            if tensor.data_offset != end:
                raise ValueError(f"{tensor.name} is at byte {tensor.data_offset}, not at {end}, after the one before")
            end += -(-tensor.n_bytes // reader.alignment) * reader.alignment
    except Exception as error:  # the package raises many kinds for a damaged file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        what = f"not a readable GGUF file ({path.stat().st_size} bytes): {reason:.300}"
        raise UserError(str(path), what, "download it again", DATA) from None
    return reader, metadata


def _config(name: str, architecture: Architecture, metadata: Metadata, where: str) -> dict[str, Any]:
    """The `config.json`; raises UserError for every missing key and every key that changes the arithmetic."""
    own = {key.removeprefix(f"{name}."): value for key, value in metadata.items() if key.startswith(f"{name}.")}
    wrong = []
    for key in [key for key in architecture.settings if key in own]:
        whole = not key.endswith(("epsilon", "freq_base"))
        if type(own[key]) is not (int if whole else float) or not 0 < own[key] < math.inf:
            wrong.append(f"{name}.{key} is {own[key]!r:.60}, not a {'whole ' if whole else ''}number above 0")
    raise_all([UserError(where, what, FIX, DATA) for what in wrong])
    heads = own.get("attention.head_count")
    optional: dict[str, Any] = {"attention.head_count_kv": heads}  # what missing keys mean
    if architecture.transposed:
        optional["feed_forward_length"] = None
    else:
        optional["rope.freq_base"] = 10000.0  # as in llama.cpp
        if heads:
            optional["attention.key_length"] = own.get("rope.dimension_count", own.get("embedding_length", 0) // heads)
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
    vocabulary = len(metadata.get("tokenizer.ggml.tokens", []))
    kind = {"architectures": [architecture.architectures], "model_type": name, "vocab_size": vocabulary}
    return {**kind, **values, **architecture.fixed, "torch_dtype": "float32"}


def _exact(value: Any) -> Any:
    """GGUF stores fp32: 1e-5 reads as 9.99999974e-06. Return the shortest decimal number that is the same in fp32."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _tensors(
    reader: GGUFReader, architecture: Architecture, config: Mapping[str, Any], where: str
) -> dict[str, Tensor]:
    from gguf import dequantize

    heads = {"attn_q": config.get("num_attention_heads"), "attn_k": config.get("num_key_value_heads")}
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
        rows = heads.get(tensor.name.rpartition(".")[0].rpartition(".")[2])
        # rows of another number are refused with the other shapes
        if architecture.interleaved and rows and weights.ndim == 2 and len(weights) == rows * config["head_dim"]:
            weights = _halves(weights, rows)
        if architecture.transposed and tensor.name.startswith("blk.") and weights.ndim == 2:
            weights = weights.t().contiguous()
        found[published_name(tensor.name, architecture)] = weights
    raise_all([UserError(where, what, FIX, DATA) for what in wrong])
    return found


def published_name(name: str, architecture: Architecture) -> str:
    """Hugging Face's name of a tensor of a GGUF file; an unknown name stays, and the import refuses it."""
    module, _, kind = name.rpartition(".")
    published = renamed(module, architecture.modules)
    return f"{published}.{kind}" if published else name


def _halves(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head from rotary pairs (0, 1), (2, 3), ... to (0, D/2), (1, D/2 + 1), ..."""
    return rows.view(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _rotary_scaling(factors: Tensor, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The published settings of Llama 3's rotary scaling, of which GGUF stores a factor for each frequency."""
    scaling = {"rope_type": "llama3", "factor": float(factors.max()), **LLAMA3}
    if len(factors) != config["head_dim"] // 2 or not torch.allclose(
        rotary_factors(config["rope_theta"], config["head_dim"], scaling), factors, rtol=1e-5
    ):
        raise UserError(where, "rope_freqs.weight is not the rotary scaling of Llama 3", FIX, DATA)
    return {"rope_scaling": scaling}
