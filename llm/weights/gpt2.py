"""GPT-2's published formats: the keys of `config.json`, the names of tensors, and those of OpenAI's own checkpoint.

Hugging Face's format is `config.json` and `model.safetensors`. The four matrices of a block are stored transposed, as
(in, out). A tied head is not stored; an untied one is `lm_head.weight`. OpenAI's format is only read: `hparams.json`,
TensorFlow's names, and the four matrices as (1, in, out).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llm.common.errors import DATA, UserError, raise_all, raise_first
from llm.model.config import ModelConfig
from llm.model.parts import GPT2
from llm.weights.config_keys import SIZE, Keys, is_size, unless
from llm.weights.layout import Format, misfits, stored_shapes

PREFIX = "transformer."
TRANSPOSED = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
MASKS = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)$")  # constants, stored in some files

# Keys of OpenAI's hparams.json, and the matching keys of config.json.
HPARAMS = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}

# Keys of a config.json, where we have other names.
KEYS = {"context_length": "n_positions", "dropout": "resid_pdrop"}
KEYS |= {"dropout_embedding": "embd_pdrop", "dropout_attention": "attn_pdrop"}

# Other names of keys in some files: an older one, and those of transformers' attributes.
OTHER_KEYS = {
    "n_ctx": "n_positions",
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

# The only supported values of these keys of config.json; the first is the default. All activations are the same
# function.
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "is_causal": (True, None),
    "quantization_config": (None,),
}


def published(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a model. transformers ignores the keys it does not know."""
    return {
        "model_type": "gpt2",
        "activation_function": "gelu_pytorch_tanh",  # in the steps of `llm.model.gpt.gelu`
        "layer_norm_epsilon": config.parts.norm_eps,
        "n_inner": config.parts.n_inner,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "embd_pdrop": config.embedding_rate,
        "attn_pdrop": config.attention_rate,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": config.tie_head,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
        "qkv_bias": config.qkv_bias,
        "init": config.init,
    }


def parse_config(published: Mapping[str, Any], where: str) -> ModelConfig:
    """The settings of the model in a `config.json`; raises UserError that lists every missing or unsupported key."""
    others = {other: value for other in OTHER_KEYS if (value := published.get(other)) is not None}
    renamed = {OTHER_KEYS[other]: value for other, value in others.items()}
    keys = Keys(renamed | dict(published), where)
    for other, value in others.items():  # transformers takes the other key, but ignores n_ctx
        found = keys.published[OTHER_KEYS[other]]
        if found != value and other != "n_ctx":
            keys.report(f"{other} is {value!r:.60}, but {OTHER_KEYS[other]} is {found!r:.60}", "keep the right one")
    keys.only(SUPPORTED)
    shape, inner, bias = keys.shape(KEYS, tie_head=True), keys.size_or_none("n_inner"), keys.flag("qkv_bias", True)
    eps = keys.positive("layer_norm_epsilon", GPT2.norm_eps)
    return keys.config(
        lambda: ModelConfig(
            family="gpt2",
            n_kv_head=None,
            qkv_bias=bias,
            parts=replace(GPT2, n_inner=unless(4 * shape["n_embd"], inner), norm_eps=eps),
            **shape,
        ),
        KEYS,
    )


def parse_hparams(hparams: Any, where: str) -> ModelConfig:
    """The settings of the model in OpenAI's `hparams.json`; raises UserError that lists every missing or wrong key."""
    fix = "use the hparams.json that belongs to the weights"
    if not isinstance(hparams, Mapping):
        raise UserError(where, f"holds {type(hparams).__name__}, not an object", fix, DATA)
    wrong = [f"{key} is {hparams.get(key)!r}, not {SIZE}" for key in HPARAMS if not is_size(hparams.get(key))]
    unknown = sorted(hparams.keys() - HPARAMS.keys())
    wrong += [f"{key} is {hparams[key]!r}, but GPT-2 has only {', '.join(HPARAMS)}" for key in unknown]
    raise_all([UserError(where, what, fix, DATA) for what in wrong])
    return parse_config({published: hparams[key] for key, published in HPARAMS.items()}, where)


FORMAT = Format(
    title="GPT-2",
    prefix=PREFIX,
    embedding=f"{PREFIX}wte.weight",
    constants=MASKS,
    names=lambda ours: (ours,),
    transposed=lambda ours: TRANSPOSED.search(ours) is not None,
    stored=lambda config: replace(config, qkv_bias=True),  # published files have this bias even if the model has none
    parse=parse_config,
    published=published,
    keys=KEYS,
    decides={},
)


def from_openai(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors of OpenAI's checkpoint in Hugging Face's format; raises UserError that lists all that do not fit."""
    shapes = stored_shapes(config, FORMAT)
    names = {openai_name(name): name for name in shapes}
    expected = {
        theirs: torch.Size((1, *shapes[name])) if TRANSPOSED.search(name) else shapes[name]
        for theirs, name in names.items()
    }
    raise_first(misfits(tensors, expected, FORMAT, where), where)
    return {name: tensors[theirs].reshape(shapes[name]) for theirs, name in names.items()}


def openai_name(published: str) -> str:
    """OpenAI's name of a tensor: `model/h0/ln_1/g` for `transformer.h.0.ln_1.weight`."""
    path, _, kind = published.removeprefix(PREFIX).rpartition(".")
    matrix = "/w" if TRANSPOSED.search(published) else ""  # embeddings have no suffix
    gain = "/g" if "ln_" in path else ""
    return "model/" + re.sub(r"^h\.", "h", path).replace(".", "/") + ("/b" if kind == "bias" else matrix or gain)
