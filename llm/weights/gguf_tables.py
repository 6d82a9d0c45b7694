"""What GGUF and Hugging Face's folders call the same things: settings, tensors, tokenizers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.weights.families import FORMATS


@dataclass(frozen=True)
class Architecture:
    """A model family in both formats. Its name in GGUF is also its `model_type`."""

    architectures: str  # in config.json
    settings: Mapping[str, str]  # GGUF's key below `<architecture>.` -> key of config.json
    modules: Mapping[str, str]  # GGUF's name -> Hugging Face's, with N for the number of a block
    fixed: Mapping[str, Any]  # keys of config.json that GGUF takes for granted
    transposed: bool = False  # Hugging Face stores the matrices of a layer as (in, out)
    interleaved: bool = False  # GGUF stores rows of queries and keys in the order of interleaved rotary pairs


_LLAMA_SETTINGS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
# GGUF's names of our modules; N is the number of a block.
_MODULES: dict[str, tuple[str, ...]] = {
    "transformer.wte": ("token_embd",),
    "transformer.ln_f": ("output_norm",),
    "lm_head": ("output",),
    "transformer.h.N.ln_1": ("blk.N.attn_norm",),
    "transformer.h.N.attn.c_attn": ("blk.N.attn_q", "blk.N.attn_k", "blk.N.attn_v"),
    "transformer.h.N.attn.q_norm": ("blk.N.attn_q_norm",),
    "transformer.h.N.attn.k_norm": ("blk.N.attn_k_norm",),
    "transformer.h.N.attn.c_proj": ("blk.N.attn_output",),
    "transformer.h.N.ln_2": ("blk.N.ffn_norm",),
    "transformer.h.N.mlp.c_gate": ("blk.N.ffn_gate",),
    "transformer.h.N.mlp.c_fc": ("blk.N.ffn_up",),
    "transformer.h.N.mlp.c_proj": ("blk.N.ffn_down",),
}
_GPT2_MODULES = {"transformer.wpe": ("position_embd",), "transformer.h.N.attn.c_attn": ("blk.N.attn_qkv",)}


def _published(family: str, modules: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The names on Hugging Face by those in GGUF."""
    names = FORMATS[family].names
    pairs = [pair for ours, gguf in modules.items() for pair in zip(gguf, names(f"{ours}.weight"), strict=True)]
    return {gguf: theirs.removesuffix(".weight") for gguf, theirs in pairs}


def renamed(module: str, names: Mapping[str, str]) -> str | None:
    """The name of a module by a table with N for the number of the block; None if it is not there."""
    block = re.search(r"\.\d+\.", module)
    known = names.get(module.replace(block[0], ".N.", 1) if block else module)
    return known.replace(".N.", block[0]) if known and block else known


_LLAMA_MODULES = _published("llama", _MODULES)


def _like_llama(name: str, interleaved: bool = False, **fixed: Any) -> Architecture:
    fixed = {"hidden_act": "silu", **fixed}
    return Architecture(f"{name}ForCausalLM", _LLAMA_SETTINGS, _LLAMA_MODULES, fixed, interleaved=interleaved)


ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": Architecture(
        "GPT2LMHeadModel",
        {
            "block_count": "n_layer",
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        _published("gpt2", _MODULES | _GPT2_MODULES),
        {"activation_function": "gelu_new"},
        transposed=True,
    ),
    "llama": _like_llama("Llama", interleaved=True, attention_bias=False, mlp_bias=False),
    "smollm3": _like_llama("SmolLM3", interleaved=True, attention_bias=False, mlp_bias=False, no_rope_layer_interval=4),
    "qwen2": _like_llama("Qwen2", use_sliding_window=False),
    "qwen3": _like_llama("Qwen3", attention_bias=False, use_sliding_window=False),
}

# Below `tokenizer.ggml.`, before `_token_id`: what ends a text, a turn and a message; all three end an answer.
ENDS = ("eos", "eot", "eom")

FIX = "use a GGUF file of a text model, or its folder from Hugging Face"

# Keys below `<architecture>.` that follow from others, or that a model without the feature may hold.
DERIVED = ("vocab_size", "rope.dimension_count", "attention.value_length")
ABSENT: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none", "default"),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.sliding_window": (0,),
}

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}


def _split(pattern: str) -> list[dict[str, Any]]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [split, _BYTES | {"use_regex": False}]


def _words(digits: str) -> str:
    """The pattern of Llama 3 and Qwen: contractions, words, numbers of `digits`, signs, white space."""
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


@dataclass(frozen=True)
class PreTokenizer:
    """How a text is split before byte pairs are merged, as in `tokenizer.json`."""

    steps: list[dict[str, Any]]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False  # a whole word that is a token is not built from merges
    begins: bool = False  # the begin of a text is put before it, if a file has no `add_bos_token`


# By the name in `tokenizer.ggml.pre`. An export takes the first one that cuts as its tokenizer does.
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "gpt-2": PreTokenizer([_BYTES | {"use_regex": True}]),
    "smollm": PreTokenizer([{"type": "Digits", "individual_digits": True}, _BYTES | {"use_regex": True}]),
    "llama-bpe": PreTokenizer(_split(_words(r"\p{N}{1,3}")), ignore_merges=True, begins=True),
    # Llama 3's tokenizer without its begin of a text: that of SmolLM3
    "smaug-bpe": PreTokenizer(_split(_words(r"\p{N}{1,3}")), ignore_merges=True),
    "qwen2": PreTokenizer(_split(_words(r"\p{N}")), normalizer={"type": "NFC"}),
}
ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}

# The rotary scaling of Llama 3.1 and later. All published models share these, and differ in `factor`.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def rotary_factors(theta: float, width: int, scaling: Mapping[str, Any]) -> Tensor:
    """What Llama 3's scaling divides each rotary frequency by; (D / 2,) for heads of `width` D."""
    wavelength = 2 * math.pi * theta ** (torch.arange(0, width, 2) / width)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] / wavelength  # of the pair within the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    factors: Tensor = 1 / ((1 - smooth) / scaling["factor"] + smooth)
    return factors
