"""The published formats of Llama and the families after it: SmolLM2 (which is a Llama), SmolLM3, Qwen2 and Qwen3.

They store queries, keys and values apart, and no matrix transposed. They differ in a few keys of `config.json`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llm.model.config import ModelConfig
from llm.model.parts import FAMILIES, Family, Llama3Scaling, Parts, Rope
from llm.weights.config_keys import Keys, unless
from llm.weights.layout import Format

PREFIX = "model."
CONSTANTS = re.compile(r"(model\.)?layers\.\d+\.self_attn\.rotary_emb\.inv_freq$")

# Our names and theirs, without `.weight` and `.bias`. In a block, both follow the number of the layer.
OUTSIDE = {"transformer.wte": "model.embed_tokens", "transformer.ln_f": "model.norm", "lm_head": "lm_head"}
INSIDE = {
    "ln_1": ("input_layernorm",),
    "attn.c_attn": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.q_norm": ("self_attn.q_norm",),
    "attn.k_norm": ("self_attn.k_norm",),
    "attn.c_proj": ("self_attn.o_proj",),
    "ln_2": ("post_attention_layernorm",),
    "mlp.c_gate": ("mlp.gate_proj",),
    "mlp.c_fc": ("mlp.up_proj",),
    "mlp.c_proj": ("mlp.down_proj",),
}

# Keys of a config.json, where we have other names.
KEYS = {
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_kv_head": "num_key_value_heads",
    "n_embd": "hidden_size",
    "n_inner": "intermediate_size",
    "context_length": "max_position_embeddings",
    "dropout": "resid_pdrop",
    "dropout_embedding": "embd_pdrop",
    "dropout_attention": "attention_dropout",
}
# The keys that decide the shape of a tensor, apart from hidden_size.
DECIDES = {
    "q_proj": "num_attention_heads and head_dim",
    "k_proj": "num_key_value_heads and head_dim",
    "v_proj": "num_key_value_heads and head_dim",
    "o_proj": "num_attention_heads and head_dim",
    "q_norm": "head_dim",
    "k_norm": "head_dim",
}

# The only supported values of these keys of config.json; the first is the default. `swish` is the same function.
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "use_sliding_window": (False, None),
    "rope_interleaved": (False,),
    "is_causal": (True, None),
    "quantization_config": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
}
ROTARY = ("rope_theta", "rope_type", "type")  # keys of a rotary embedding without scaling
SCALING = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_max_position_embeddings": "original_context",
}


@dataclass(frozen=True)
class Variant:
    """What a family's config.json has of its own, and what a missing key means."""

    name: Family
    title: str
    architecture: str
    tie_head: bool
    head_dim: int | None = None  # None: hidden_size / num_attention_heads


def our_names(ours: str) -> tuple[str, ...]:
    """The published names of a tensor of ours; three for queries, keys and values."""
    path, _, kind = ours.rpartition(".")
    if path in OUTSIDE:
        return (f"{OUTSIDE[path]}.{kind}",)
    layer, _, inside = path.removeprefix("transformer.h.").partition(".")
    return tuple(f"{PREFIX}layers.{layer}.{theirs}.{kind}" for theirs in INSIDE[inside])


def parse_rope(keys: Keys, default: Rope) -> Rope:
    """Rotary positions, from `rope_theta` and `rope_scaling`, or without it from `rope_parameters` (transformers 5)."""
    found: dict[str, Any] = {}
    for key in ("rope_parameters", "rope_scaling"):
        section = keys.published.get(key)
        if section is not None and not isinstance(section, Mapping):
            keys.report(f"{key} is {section!r}, not an object")
        elif section:  # people add the older key to ask for more context; transformers then ignores the newer one
            found = dict(section)
    inner = Keys({"rope_theta": keys.published.get("rope_theta", default.theta)} | found, keys.where)
    kind = found.get("rope_type", found.get("type", "default"))
    if kind == "linear" and found.get("factor") == 1:  # positions stay as they are
        kind = "default"
    known = {*ROTARY, *SCALING} if kind == "llama3" else {*ROTARY, "factor"} if kind == "default" else set(found)
    if kind not in ("default", "llama3"):
        keys.report(f"rope_type is {kind!r}, only 'default' and 'llama3' are supported", "use another checkpoint")
    for key in sorted(set(found) - known - {"original_max_position_embeddings"}):
        if not (key == "partial_rotary_factor" and found[key] == 1):
            keys.report(f"{key} of the rotary positions is {found[key]!r}, which is not supported", "use another one")
    theta, scaling = inner.positive("rope_theta", default.theta), None
    if kind == "llama3":
        values = {ours: inner.positive(theirs, None) for theirs, ours in SCALING.items()}
        scaling = Llama3Scaling(**values)
        if not inner.problems and not scaling.low_freq_factor < scaling.high_freq_factor:
            keys.report(f"high_freq_factor is {scaling.high_freq_factor!r}, not above low_freq_factor")
    keys.problems += inner.problems
    return replace(default, theta=theta, scaling=scaling)


def parse_skips(keys: Keys, layers: Any, default: int) -> int | None:
    """The interval of layers without positions in SmolLM3; `no_rope_layers` (0: without) must agree with it."""
    every: int = keys.size("no_rope_layer_interval", default)
    flags = keys.published.get("no_rope_layers")
    if flags is None or keys.problems:
        return every
    if not isinstance(flags, list) or len(flags) != layers:
        keys.report(f"no_rope_layers is not a list of num_hidden_layers ({layers}) flags")
    elif all(flag == 1 for flag in flags):
        return None
    elif flags != [int((layer + 1) % every != 0) for layer in range(layers)]:
        keys.report(f"no_rope_layers is not 0 at every layer with a number divisible by {every}, and 1 elsewhere")
    return every


def parse_config(variant: Variant, published: Mapping[str, Any], where: str) -> ModelConfig:
    """The settings of the model in a `config.json`; raises UserError that lists every missing or unsupported key."""
    parts, rope = _parts(variant)
    keys = Keys(published, where)
    keys.only(SUPPORTED)
    kinds = published.get("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or set(map(str, kinds)) - {"full_attention"}):
        keys.report("layer_types has layers other than 'full_attention', which are not supported", "use another")
    shape = keys.shape(KEYS, variant.tie_head)
    heads, width = shape["n_head"], shape["n_embd"]
    inner, shared = keys.size("intermediate_size"), keys.size_or_none("num_key_value_heads")
    eps = keys.positive("rms_norm_eps", 1e-6)
    head = keys.size_or_none("head_dim", variant.head_dim)
    turned = parse_rope(keys, rope)
    if rope.skip_every:
        turned = replace(turned, skip_every=parse_skips(keys, shape["n_layer"], rope.skip_every))
    return keys.config(
        lambda: ModelConfig(
            family=variant.name,
            n_kv_head=unless(heads, shared),
            qkv_bias=variant.name == "qwen2",
            parts=replace(parts, norm_eps=eps, rope=turned, n_inner=inner, head_dim=unless(width / heads, head)),
            **shape,
        ),
        KEYS,
    )


def published(variant: Variant, config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a model. transformers ignores the keys it does not know."""
    own, default = config.parts.rope, _parts(variant)[1]
    assert own is not None
    rotary: dict[str, Any] = {"rope_theta": own.theta, "rope_type": "default"}
    if own.scaling:
        rotary["rope_type"] = "llama3"
        rotary |= {theirs: getattr(own.scaling, ours) for theirs, ours in SCALING.items()}
    written: dict[str, Any] = {
        "model_type": variant.name,
        "architectures": [variant.architecture],
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.n_embd,
        "intermediate_size": config.n_inner,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.parts.norm_eps,
        "rope_parameters": rotary,
        "rope_theta": own.theta,  # this and rope_scaling for readers older than transformers 5
        "rope_scaling": rotary if own.scaling else None,
        "attention_dropout": config.attention_rate,
        "tie_word_embeddings": config.tie_head,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": "float32",
        "embd_pdrop": config.embedding_rate,
        "resid_pdrop": config.dropout,
        "init": config.init,
    }
    if default.skip_every:
        written["no_rope_layers"] = [int(own.rotates(layer)) for layer in range(config.n_layer)]
        written["no_rope_layer_interval"] = own.skip_every or default.skip_every
    if variant.name in ("smollm3", "qwen2", "qwen3"):
        written["use_sliding_window"] = False
    if variant.name != "qwen2":
        written["attention_bias"] = False
    return written


def format_of(variant: Variant) -> Format:
    """The format of one of these families."""
    return Format(
        title=variant.title,
        prefix=PREFIX,
        embedding=f"{PREFIX}embed_tokens.weight",
        constants=CONSTANTS,
        names=our_names,
        transposed=lambda ours: False,
        stored=lambda config: config,
        parse=partial(parse_config, variant),
        published=partial(published, variant),
        keys=KEYS,
        decides=DECIDES,
    )


def _parts(variant: Variant) -> tuple[Parts, Rope]:
    """The parts of a new model of the family, and its rotary positions."""
    parts = FAMILIES[variant.name]
    assert parts.rope is not None
    return parts, parts.rope


VARIANTS = (
    Variant("llama", "Llama", "LlamaForCausalLM", tie_head=False),
    Variant("smollm3", "SmolLM3", "SmolLM3ForCausalLM", tie_head=True),
    Variant("qwen2", "Qwen2", "Qwen2ForCausalLM", tie_head=False),
    Variant("qwen3", "Qwen3", "Qwen3ForCausalLM", tie_head=False, head_dim=128),
)
