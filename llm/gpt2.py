"""GPT-2 checkpoints in Hugging Face's layout <-> ours: one table of facts, strict in both directions.

The layout: `config.json`, and `model.safetensors` with GPT-2's tensor names, where the four matrices of a block are
stored the other way round (Conv1D: (in, out)). A tied head is not stored; an untied one is `lm_head.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from llm.errors import DATA, UserError, raise_all
from llm.model import GPT, ModelConfig


@dataclass(frozen=True)
class ImportSource:
    """A checkpoint to import."""

    source: str  # a folder in Hugging Face's layout: config.json and model.safetensors
    tokenizer: str  # a folder with the vocabulary that the checkpoint was trained on
    untie_head: bool  # give the head a matrix of its own, as the book does before fine-tuning


PREFIX = "transformer."
TRANSPOSED = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$")
MASKS = re.compile(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)$")  # constants in OpenAI's own files

# What config.json must say for the arithmetic to be ours; a missing key means the value given here.
ASSUMED: dict[str, Any] = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_inner": None,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def published(model_type_config: ModelConfig, eot: int) -> dict[str, Any]:
    """The `config.json` of a model of ours; the keys transformers does not know say what it cannot."""
    c = model_type_config
    return ASSUMED | {
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": c.vocab_size,
        "n_positions": c.context_length,
        "n_embd": c.n_embd,
        "n_layer": c.n_layer,
        "n_head": c.n_head,
        "embd_pdrop": c.dropout,
        "attn_pdrop": c.dropout,
        "resid_pdrop": c.dropout,
        "tie_word_embeddings": c.tie_head,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "torch_dtype": "float32",
        "qkv_bias": c.qkv_bias,
        "init": c.init,
    }


def parse_config(published: Mapping[str, Any], where: str) -> ModelConfig:
    """The model that a `config.json` describes; raises UserError naming every key that is missing or not GPT-2's."""
    problems = []
    for key, value in ASSUMED.items():
        if published.get(key, value) != value:
            what = f"{key} is {published[key]!r}, this code computes {value!r}"
            problems.append(UserError(where, what, "take a checkpoint of the GPT-2 family", DATA))
    numbers = {}
    for key in ("vocab_size", "n_positions", "n_layer", "n_head", "n_embd"):
        value = published.get(key)
        if type(value) is not int or value < 1:
            what = f"{key} is {value!r}, not a whole number above 0"
            problems.append(UserError(where, what, "take the config.json that belongs to the weights", DATA))
        else:
            numbers[key] = value
    raise_all(problems)
    context_length = numbers.pop("n_positions")
    return ModelConfig(
        context_length=context_length,
        dropout=float(published.get("resid_pdrop", 0.0)),
        qkv_bias=bool(published.get("qkv_bias", True)),
        tie_head=bool(published.get("tie_word_embeddings", True)),
        init="torch" if published.get("init") == "torch" else "gpt2",
        attention="sdpa",
        **numbers,
    )


def export(model: GPT) -> dict[str, Tensor]:
    """The model's tensors under their published names and orientation; a model without QKV bias gets zeros."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_head:
            continue
        tensors[name] = (tensor.t() if TRANSPOSED.search(name) else tensor).detach().cpu().contiguous()
    if not model.config.qkv_bias:
        for layer in range(model.config.n_layer):
            name = f"{PREFIX}h.{layer}.attn.c_attn.bias"
            tensors[name] = torch.zeros(3 * model.config.n_embd)
    return tensors


def load_published(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> GPT:
    """A model with these published tensors.

    Names may come with or without `transformer.`. Raises UserError listing every missing, extra or misshaped
    tensor, every tensor that is not floating point, and every one that holds NaN or infinity.
    """
    found = {}
    for name, tensor in tensors.items():
        if not MASKS.fullmatch(name):
            found[name if name.startswith((PREFIX, "lm_head.")) else PREFIX + name] = tensor
    with torch.device("meta"):
        model = GPT(replace(config, qkv_bias=True))
    expected = {name: tuple(tensor.shape) for name, tensor in export_shapes(model).items()}
    if config.tie_head:
        head = found.pop("lm_head.weight", None)
        if head is not None and not torch.equal(head, found.get(f"{PREFIX}wte.weight", head)):
            fix = "set tie_word_embeddings to false in config.json"
            raise UserError(where, "lm_head.weight differs from wte.weight, but the head is tied", fix, DATA)
    _check(found, expected, where)
    state = {name: (t.t() if TRANSPOSED.search(name) else t).float().contiguous() for name, t in found.items()}
    if not config.qkv_bias:
        _drop_zero_bias(state, where)
    with torch.device("meta"):
        model = GPT(config)
    if config.tie_head:
        state["lm_head.weight"] = state[f"{PREFIX}wte.weight"]
    model.load_state_dict(state, assign=True)
    if config.tie_head:
        model.lm_head.weight = model.transformer.wte.weight
    return model.requires_grad_(True)


def untie_head(model: GPT) -> GPT:
    """The same model with a copy of the token embedding as a head of its own (book, section 5.5)."""
    untied = GPT(replace(model.config, tie_head=False))
    untied.load_state_dict(model.state_dict())
    return untied


def export_shapes(model: GPT) -> dict[str, Tensor]:
    """As `export`, without touching values: works on the meta device."""
    shapes = {}
    for name, tensor in model.state_dict().items():
        if not (name == "lm_head.weight" and model.config.tie_head):
            shapes[name] = tensor.t() if TRANSPOSED.search(name) else tensor
    return shapes


def _check(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    fix = "take weights and config.json from the same checkpoint, and fetch them again"
    problems = [UserError(where, f"{name} is missing", fix, DATA) for name in expected if name not in found]
    problems += [UserError(where, f"{name} belongs to no GPT-2", fix, DATA) for name in found if name not in expected]
    for name, tensor in found.items():
        shape = expected.get(name, tuple(tensor.shape))
        if tuple(tensor.shape) != shape:
            what = f"{name} has the shape {tuple(tensor.shape)}, not {shape}"
            problems.append(UserError(where, what, fix, DATA))
        elif not tensor.is_floating_point():
            problems.append(UserError(where, f"{name} holds {tensor.dtype}, not floating point", fix, DATA))
        elif not torch.isfinite(tensor).all():
            problems.append(UserError(where, f"{name} holds NaN or infinity", fix, DATA))
    raise_all(problems)


def _drop_zero_bias(state: dict[str, Tensor], where: str) -> None:
    for name in [name for name in state if name.endswith("attn.c_attn.bias")]:
        if state.pop(name).any():
            what = f"{name} is not zero, but config.json says qkv_bias: false"
            raise UserError(where, what, "set qkv_bias to true in config.json", DATA)
