"""All families of models that can be read and written: one `Format` a family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from llm.common.errors import DATA, UserError
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.weights import gpt2, layout, llama
from llm.weights.config_keys import FIX
from llm.weights.layout import Format

FORMATS: dict[str, Format] = {"gpt2": gpt2.FORMAT} | {v.name: llama.format_of(v) for v in llama.VARIANTS}


@dataclass(frozen=True)
class Checkpoint:
    """A model as it is published: its settings, and its tensors under the names that its family has on Hugging Face."""

    config: ModelConfig
    tensors: Mapping[str, Tensor]  # of any floating point; may be mapped from a file
    where: str  # the file, for error messages

    def model(self) -> GPT:
        """The model in fp32; raises UserError that lists all tensors that do not fit."""
        return layout.load(self.config, self.tensors, FORMATS[self.config.family], self.where)


def parse_config(published: Any, where: str) -> ModelConfig:
    """The settings of the model in a `config.json`; raises UserError that lists every missing or unsupported key."""
    if not isinstance(published, Mapping):
        raise UserError(where, f"holds {type(published).__name__}, not an object", FIX, DATA)
    name = published.get("model_type", "gpt2")
    if not isinstance(name, str) or name not in FORMATS:
        what = f"model_type is {name!r}, only {', '.join(FORMATS)} are supported"
        raise UserError(where, what, "use a checkpoint of one of these families", DATA)
    return FORMATS[name].parse(published, where)


def published(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a model, in the format of its family, without the ids of tokens."""
    return FORMATS[config.family].published(config)


def export(model: GPT) -> dict[str, Tensor]:
    """The model's tensors in the format of its family."""
    return layout.export(model, FORMATS[model.config.family])


def untie_head(model: GPT) -> None:
    """Replace a tied head by a copy of the token embedding, as the book does (section 5.5)."""
    if model.config.tie_head:
        model.lm_head.weight = nn.Parameter(model.transformer.wte.weight.detach().clone())
        model.config = replace(model.config, tie_head=False)


def trim_vocabulary(model: GPT, tokens: int, where: str) -> int:
    """Drop the rows of embedding and head above the tokenizer's `tokens`; returns how many there were.

    Published models are often padded to a round number of rows. Without them, no id is ever chosen that the tokenizer
    cannot decode. Raises UserError if there are fewer rows than tokens.
    """
    rows = model.config.vocab_size
    if rows < tokens:
        what = f"has a vocabulary of {rows} tokens, but the tokenizer of {tokens}"
        raise UserError(where, what, "use the tokenizer that the model was trained with", DATA)
    if rows > tokens:
        embedding, head, tied = model.transformer.wte, model.lm_head, model.config.tie_head
        embedding.weight = nn.Parameter(embedding.weight.detach()[:tokens].clone())
        head.weight = embedding.weight if tied else nn.Parameter(head.weight.detach()[:tokens].clone())
        embedding.num_embeddings = head.out_features = tokens
        model.config = model.transformer.config = replace(model.config, vocab_size=tokens)
    return rows - tokens
