"""Convert models from and to the published formats of GPT-2, with strict checks.

Hugging Face's format is `config.json` and `model.safetensors`. The four matrices of a block are stored transposed, as
(in, out). A tied head is not stored; an untied one is `lm_head.weight`. OpenAI's format is only read: `hparams.json`,
TensorFlow's names, and the four matrices as (1, in, out).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from llm.common.errors import DATA, UserError, raise_all
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.meta import on_meta_device

FIX = "download weights and config of the same checkpoint again"
FIX_CONFIG = "use the config.json that belongs to the weights"
SIZE = "a whole number above 0"
PREFIX, HEAD = "transformer.", "lm_head.weight"
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

# The only supported values of these keys of config.json, and their defaults.
ASSUMED: dict[str, Any] = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "n_inner": None,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def published(config: ModelConfig, eot: int) -> dict[str, Any]:
    """The `config.json` of a model. transformers ignores the keys it does not know."""
    return ASSUMED | {
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
        "bos_token_id": eot,
        "eos_token_id": eot,
        "torch_dtype": "float32",
        "qkv_bias": config.qkv_bias,
        "init": config.init,
    }


def parse_config(published: Any, where: str) -> ModelConfig:
    """The settings of the model in a `config.json`; raises UserError that lists every missing or unsupported key."""
    if not isinstance(published, Mapping):
        raise UserError(where, f"holds {type(published).__name__}, not an object", FIX_CONFIG, DATA)
    problems = []
    for key, value in ASSUMED.items():
        if published.get(key, value) != value:
            what = f"{key} is {published[key]!r}, only {value!r} is supported"
            problems.append(UserError(where, what, "use a checkpoint of the GPT-2 family", DATA))

    def read(key: str, kind: str, valid: Callable[[Any], bool], default: Any = None) -> Any:
        value = published.get(key, default)
        if not valid(value):
            problems.append(UserError(where, f"{key} is {value!r}, not {kind}", FIX_CONFIG, DATA))
        return value

    def size(key: str) -> Any:
        return read(key, SIZE, _is_size)

    def flag(key: str) -> Any:
        return read(key, "true or false", lambda value: type(value) is bool, True)

    def rate(key: str, default: Any) -> Any:
        return read(key, "a number", lambda value: type(value) in (int, float), default)

    dropout = rate("resid_pdrop", 0.0)
    embedding, attention = (rate(key, dropout) for key in ("embd_pdrop", "attn_pdrop"))
    config = ModelConfig(
        vocab_size=size("vocab_size"),
        context_length=size("n_positions"),
        n_layer=size("n_layer"),
        n_head=size("n_head"),
        n_embd=size("n_embd"),
        dropout=dropout,
        dropout_embedding=None if embedding == dropout else embedding,
        dropout_attention=None if attention == dropout else attention,
        qkv_bias=flag("qkv_bias"),
        tie_head=flag("tie_word_embeddings"),
        init=read("init", "gpt2 or torch", lambda value: value in ("gpt2", "torch"), "gpt2"),
        attention="sdpa",
        dropout_random="each",
    )
    raise_all(problems)
    raise_all([UserError(where, f"{name}: {what}", fix, DATA) for name, what, fix in config.problems()])
    return config


def parse_hparams(hparams: Any, where: str) -> ModelConfig:
    """The settings of the model in OpenAI's `hparams.json`; raises UserError that lists every missing or wrong key."""
    fix = "use the hparams.json that belongs to the weights"
    if not isinstance(hparams, Mapping):
        raise UserError(where, f"holds {type(hparams).__name__}, not an object", fix, DATA)
    wrong = [f"{key} is {hparams.get(key)!r}, not {SIZE}" for key in HPARAMS if not _is_size(hparams.get(key))]
    unknown = sorted(hparams.keys() - HPARAMS.keys())
    wrong += [f"{key} is {hparams[key]!r}, but GPT-2 has only {', '.join(HPARAMS)}" for key in unknown]
    raise_all([UserError(where, what, fix, DATA) for what in wrong])
    return parse_config({published: hparams[key] for key, published in HPARAMS.items()}, where)


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def export(model: GPT) -> dict[str, Tensor]:
    """The model's tensors in the published format; without a QKV bias, it is stored as zeros."""
    tied = model.lm_head.weight is model.transformer.wte.weight
    assert tied or not model.config.tie_head, "the head is not tied, and would be lost"
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _published_tensors(model).items()}
    if not model.config.qkv_bias:
        for layer in range(model.config.n_layer):
            tensors[f"{PREFIX}h.{layer}.attn.c_attn.bias"] = torch.zeros(3 * model.config.n_embd)
    return tensors


def load_published(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> GPT:
    """A model with these tensors, named as published, with or without `transformer.`.

    Raises UserError that lists every missing tensor, every unknown one, and every one with the wrong shape, a type
    that is not floating point, NaN or infinity.
    """
    raise_all(list(_implausible_sizes(config, tensors, where)))
    with on_meta_device():
        model = GPT(config)
    found = _checked(tensors, _published_shapes(config), where)
    state = {name: (t.t() if TRANSPOSED.search(name) else t).float().contiguous() for name, t in found.items()}
    if not config.qkv_bias:
        _drop_zero_bias(state, where)
    if config.tie_head:
        state[HEAD] = state[f"{PREFIX}wte.weight"]
    model.load_state_dict(state, assign=True)
    if config.tie_head:
        model.lm_head.weight = model.transformer.wte.weight
    return model


def load_openai(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> GPT:
    """A model with the tensors of OpenAI's checkpoint; raises UserError as `load_published` does."""
    shapes = _published_shapes(config)
    names = {openai_name(name): name for name in shapes}
    expected = {
        theirs: torch.Size((1, *shapes[name])) if TRANSPOSED.search(name) else shapes[name]
        for theirs, name in names.items()
    }
    raise_all(_misfits(tensors, expected, where))
    flat = {name: tensors[theirs].reshape(shapes[name]) for theirs, name in names.items()}
    return load_published(config, flat, where)


def openai_name(published: str) -> str:
    """OpenAI's name of a tensor: `model/h0/ln_1/g` for `transformer.h.0.ln_1.weight`."""
    path, _, kind = published.removeprefix(PREFIX).rpartition(".")
    matrix = "/w" if TRANSPOSED.search(published) else ""  # embeddings have no suffix
    gain = "/g" if "ln_" in path else ""
    return "model/" + re.sub(r"^h\.", "h", path).replace(".", "/") + ("/b" if kind == "bias" else matrix or gain)


def untie_head(model: GPT) -> None:
    """Replace a tied head by a copy of the token embedding, as the book does (section 5.5)."""
    if model.config.tie_head:
        model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach().clone())
        model.config = replace(model.config, tie_head=False)


def _published_tensors(model: GPT) -> dict[str, Tensor]:
    """Views of the model's tensors, transposed as published, without a tied head."""
    return {
        name: tensor.t() if TRANSPOSED.search(name) else tensor
        for name, tensor in model.state_dict().items()
        if not (name == HEAD and model.config.tie_head)
    }


def _published_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """The tensors of a published file. It has a QKV bias even if the model has none."""
    with on_meta_device():
        stored = GPT(replace(config, qkv_bias=True))
    return {name: tensor.shape for name, tensor in _published_tensors(stored).items()}


def _implausible_sizes(config: ModelConfig, tensors: Mapping[str, Tensor], where: str) -> Iterator[UserError]:
    """Sizes in the config that the file is too small for, found before a huge model is created."""
    # sizes below a million are left to `_misfits`, which names each tensor
    most = max([10**6, *(tensor.numel() for tensor in tensors.values())])
    limits = dict.fromkeys(("vocab_size", "context_length", "n_embd"), most) | {"n_layer": max(1000, len(tensors))}
    for name, limit in limits.items():
        if (value := getattr(config, name)) > limit:
            yield UserError(where, f"is too small for {name} {value} in config.json", FIX, DATA)


def _checked(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], where: str) -> dict[str, Tensor]:
    """The tensors under their full names, checked."""
    problems = []
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = name if name.startswith((PREFIX, "lm_head.")) else PREFIX + name
        if full in found:
            problems.append(UserError(where, f"{full} is stored twice, with and without {PREFIX}", FIX, DATA))
        elif not MASKS.fullmatch(name):
            found[full] = tensor
    if HEAD in found and HEAD not in shapes:  # some files store a tied head too
        head = found.pop(HEAD)
        if not torch.equal(head, found.get(f"{PREFIX}wte.weight", head)):
            what = f"{HEAD} differs from wte.weight, but config.json says tie_word_embeddings: true"
            problems.append(UserError(where, what, "set tie_word_embeddings to false in config.json", DATA))
    raise_all(problems + _misfits(found, shapes, where))
    return found


def _misfits(found: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], where: str) -> list[UserError]:
    wrong = [f"{name} is missing" for name in shapes if name not in found]
    wrong += [f"{name} is not a tensor of this GPT-2" for name in found if name not in shapes]
    for name, tensor in found.items():
        shape = shapes.get(name, tensor.shape)
        if tensor.shape != shape:
            wrong.append(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(shape)}")
        elif not tensor.is_floating_point():
            wrong.append(f"{name} holds {tensor.dtype}, not floating point")
        elif not torch.isfinite(tensor.float()).all():
            wrong.append(f"{name} holds NaN or infinity")
    return [UserError(where, what, FIX, DATA) for what in wrong]


def _drop_zero_bias(state: dict[str, Tensor], where: str) -> None:
    biases = {name: state.pop(name) for name in list(state) if name.endswith("attn.c_attn.bias")}
    fix = "set qkv_bias to true in config.json"
    wrong = [f"{name} is not zero, but config.json says qkv_bias: false" for name, bias in biases.items() if bias.any()]
    raise_all([UserError(where, what, fix, DATA) for what in wrong])
