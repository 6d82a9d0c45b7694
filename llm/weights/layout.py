"""Load and export tensors in the published format of a family, with strict checks.

All models have GPT-2's names. A `Format` says under which names a family stores them, and how.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm.common.errors import DATA, UserError, raise_all, raise_first
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.meta import on_meta_device

FIX = "download weights and config of the same checkpoint again"
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"  # in our models; the head has this name in all families
TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)  # smaller ones need scales
BIAS = "attn.c_attn.bias"
# In names of tensors of a model saved inside torch.compile, DistributedDataParallel, FSDP or activation checkpointing.
WRAPPERS = re.compile(r"\b(_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True)
class Format:
    """The published format of one family, in both directions."""

    title: str  # the family's name in messages
    prefix: str  # of all tensors but the head; some files leave it out
    embedding: str  # the name of the token embedding
    constants: re.Pattern[str]  # names of tensors that are no weights, stored in some files
    names: Callable[[str], tuple[str, ...]]  # where a tensor of ours is stored: several names hold parts of its rows
    transposed: Callable[[str], bool]  # whether a tensor of ours is stored as (in, out)
    stored: Callable[[ModelConfig], ModelConfig]  # the model as it is stored; it may have a bias of zeros
    parse: Callable[[Mapping[str, Any], str], ModelConfig]  # a config.json and its path -> config; raises UserError
    published: Callable[[ModelConfig], dict[str, Any]]  # config -> config.json, without the ids of tokens
    keys: Mapping[str, str]  # of a config.json, by our names, where they differ
    decides: Mapping[str, str]  # the keys that decide the shape of a tensor, by a part of its name


def export(model: GPT, family: Format) -> dict[str, Tensor]:
    """The model's tensors in the published format; a bias that the model does not have is stored as zeros."""
    config = model.config
    tied = model.lm_head.weight is model.transformer.wte.weight
    assert tied or not config.tie_head, "the head is not tied, and would be lost"
    state, tensors = model.state_dict(), {}
    for ours, shape in _our_shapes(config, family).items():
        tensor = state[ours].detach().cpu() if ours in state else torch.zeros(shape)
        parts = torch.split(tensor, _rows(config, family, ours, shape))
        for name, part in zip(family.names(ours), parts, strict=True):
            tensors[name] = (part.t() if family.transposed(ours) else part).contiguous()
    return tensors


def load(config: ModelConfig, tensors: Mapping[str, Tensor], family: Format, where: str) -> GPT:
    """A model with these tensors, named as published, with or without the prefix and what wraps a module; in fp32.

    Raises UserError that lists every missing tensor, every unknown one, and every one with the wrong shape, a type
    that is not floating point, NaN or infinity.
    """
    raise_all(list(_implausible_sizes(config, tensors, family, where)))
    with on_meta_device():
        model = GPT(config)
    found, state = _checked(tensors, stored_shapes(config, family), family, where), {}
    for ours in _our_shapes(config, family):
        parts = [found.pop(name) for name in family.names(ours)]
        turned = [(part.t() if family.transposed(ours) else part).float() for part in parts]
        state[ours] = turned[0].contiguous() if len(turned) == 1 else torch.cat(turned)
    if not config.qkv_bias:
        _drop_zero_bias(state, where)
    if config.tie_head:
        state[HEAD] = state[EMBEDDING]
    model.load_state_dict(state, assign=True)
    if config.tie_head:
        model.lm_head.weight = model.transformer.wte.weight
    return model


def stored_shapes(config: ModelConfig, family: Format) -> dict[str, torch.Size]:
    """The shape of each tensor of a published file."""
    shapes = {}
    for ours, shape in _our_shapes(config, family).items():
        for name, rows in zip(family.names(ours), _rows(config, family, ours, shape), strict=True):
            part = torch.Size((rows, *shape[1:]))
            shapes[name] = torch.Size(reversed(part)) if family.transposed(ours) else part
    return shapes


def _our_shapes(config: ModelConfig, family: Format) -> dict[str, torch.Size]:
    """The tensors of the model as it is stored, under our names; without a tied head."""
    with on_meta_device():
        stored = GPT(family.stored(config))
    return {name: t.shape for name, t in stored.state_dict().items() if not (name == HEAD and config.tie_head)}


def _rows(config: ModelConfig, family: Format, ours: str, shape: torch.Size) -> list[int]:
    """The rows of a tensor under each of its names; only queries, keys and values are stored apart."""
    if len(family.names(ours)) == 1:
        return [shape[0]]
    keys = config.kv_heads * config.head_dim
    return [config.n_head * config.head_dim, keys, keys]


def _implausible_sizes(
    config: ModelConfig, tensors: Mapping[str, Tensor], family: Format, where: str
) -> Iterator[UserError]:
    """Sizes in the config that the file is too small for, found before a huge model is created."""
    # sizes below a million are left to `misfits`, which names each tensor
    most = max([10**6, *(tensor.numel() for tensor in tensors.values())])
    sizes = {"vocab_size": config.vocab_size, "n_embd": config.n_embd, "n_inner": config.n_inner}
    sizes["head_dim"] = config.n_head * config.head_dim
    if config.parts.rope is None:
        sizes["context_length"] = config.context_length
    sizes["n_layer"] = config.n_layer
    for name, value in sizes.items():
        if value > (max(1000, len(tensors)) if name == "n_layer" else most):
            yield UserError(where, f"is too small for {family.keys.get(name, name)} {value} in config.json", FIX, DATA)


def _checked(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], family: Format, where: str
) -> dict[str, Tensor]:
    """The tensors under their full names, checked."""
    problems = []
    found: dict[str, Tensor] = {}
    for stored, tensor in tensors.items():
        name = WRAPPERS.sub("", stored)
        full = name if name.startswith((family.prefix, "lm_head.")) else family.prefix + name
        if full in found:
            problems.append(UserError(where, f"{full} is stored twice, also as {stored}", FIX, DATA))
        elif not family.constants.fullmatch(name):
            found[full] = tensor
    if HEAD in found and HEAD not in shapes:  # some files store a tied head too
        head = found.pop(HEAD)
        if not torch.equal(head, found.get(family.embedding, head)):
            short = family.embedding.removeprefix(family.prefix)
            what = f"{HEAD} differs from {short}, but config.json says tie_word_embeddings: true"
            problems.append(UserError(where, what, "set tie_word_embeddings to false in config.json", DATA))
    raise_first(problems + misfits(found, shapes, family, where), where)
    return found


def misfits(
    found: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], family: Format, where: str
) -> list[UserError]:
    """A problem for each tensor that is missing, unknown, of another shape, or holds no finite floating point."""
    wrong = [f"{name} is missing" for name in shapes if name not in found]
    wrong += [f"{name} is not a tensor of this {family.title}" for name in found if name not in shapes]
    for name, tensor in found.items():
        shape = shapes.get(name, tensor.shape)
        if tensor.shape != shape:
            keys = [keys for part, keys in family.decides.items() if f".{part}." in name]
            why = f", which follows from {keys[0]} in config.json" if keys else ""
            wrong.append(f"{name} has the shape {tuple(tensor.shape)}, not {tuple(shape)}{why}")
        elif tensor.dtype not in TYPES:
            wrong.append(f"{name} holds {tensor.dtype}, not floating point of 16 bits or more")
        elif not _finite(tensor):
            wrong.append(f"{name} holds NaN or infinity")
    return [UserError(where, what, FIX, DATA) for what in wrong]


def _finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite in fp32; a NaN is both the smallest and the largest."""
    if tensor.dtype == torch.float64:
        tensor = tensor.float()
    return tensor.numel() == 0 or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _drop_zero_bias(state: dict[str, Tensor], where: str) -> None:
    biases = {name: state.pop(name) for name in list(state) if name.endswith(BIAS)}
    fix = "set qkv_bias to true in config.json"
    wrong = [f"{name} is not zero, but config.json says qkv_bias: false" for name, bias in biases.items() if bias.any()]
    raise_all([UserError(where, what, fix, DATA) for what in wrong])
