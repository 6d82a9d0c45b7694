"""Model folders in the Hugging Face format of their family, which transformers can open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llm.common.errors import DATA, UserError
from llm.common.files import CONFIG_BYTES, UNROUNDED, read_json, write_json
from llm.common.seeds import derive
from llm.data import own_chat, special_tokens, tokenizer
from llm.data.tokenizer import Tokenizer
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.trainable import LoraConfig
from llm.weights import families
from llm.weights.families import Checkpoint
from llm.weights.tensors import WEIGHTS, read_weights, write_tensors

CONFIG = "config.json"
OLD_CLASSIFIER = "Classifier"
ADAPTER_CONFIG, ADAPTER = "adapter.json", "adapter.safetensors"
PEFT = "adapter_config.json"  # beside matrices of LoRA that the package peft wrote


def save_model(
    model: GPT, tokenizer_folder: Path, folder: Path, prompt: Any = None, source: Path | None = None
) -> None:
    """Write the model and its tokenizer to `folder`, and the prompt frame it was trained with, if any, as JSON.

    `source` is the folder of the published model: the ids that it names end a text too.
    """
    tokens = copy_tokenizer(tokenizer_folder, folder, model.config.vocab_size, source)
    extra = {} if prompt is None else {"prompt": prompt}
    write_json(folder / CONFIG, families.published(model.config) | tokens | extra, UNROUNDED)
    own_chat.write(folder, prompt)
    write_tensors(folder / WEIGHTS, families.export(model))


def load_model(folder: Path | str, tokens: int | None = None) -> GPT:
    """Read a model folder, from this project or any of a known family in Hugging Face's format; fp32 on the CPU.

    `tokens` is the size of the tokenizer: rows of embedding and head above it are dropped. Raises UserError for a file
    that is missing, damaged or of another family. No code in a file is run.
    """
    return _trimmed(read(Path(folder)).model(), tokens, folder)


def read(folder: Path) -> Checkpoint:
    """The settings of a model folder, and its tensors under their published names, memory-mapped."""
    config = read_config(folder)
    tensors, where = read_weights(folder)
    return Checkpoint(config, tensors, str(where))


def starting_point(folder: Path, weights: str, dropout: float, seed: int, tokens: int | None = None) -> GPT:
    """A model to fine-tune, with the folder's weights ("pretrained") or new ones of the same shape ("random").

    `dropout` replaces all dropout rates of the folder. For `tokens` see `load_model`.
    """
    config = replace(read_config(folder), dropout=dropout, dropout_embedding=None, dropout_attention=None)
    if weights == "random":
        torch.manual_seed(derive(seed, "init"))
        return GPT(config if tokens is None else replace(config, vocab_size=tokens))
    return _trimmed(replace(read(folder), config=config).model(), tokens, folder)


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer of a model folder."""
    return Tokenizer.load(folder)


def save_adapter(adapter: Mapping[str, Tensor], config: LoraConfig, base: str, folder: Path) -> None:
    """Write the matrices that `merge_lora` returned, next to the merged model; `base` is the folder they apply to.

    For a classifier they are not enough: its head starts from random weights, which `base` does not have.
    """
    write_json(folder / ADAPTER_CONFIG, {"base": base} | asdict(config))
    write_tensors(folder / ADAPTER, {name: tensor.cpu() for name, tensor in adapter.items()})


def is_classifier(published: Mapping[str, Any]) -> bool:
    """Whether a `config.json` describes a classifier."""
    names = published.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else ""
    return isinstance(name, str) and (name == OLD_CLASSIFIER or name.endswith("ForSequenceClassification"))


def read_config(folder: Path) -> ModelConfig:
    """The settings of the language model in a folder."""
    where = str(folder / CONFIG)
    if not (folder / CONFIG).is_file() and (folder / PEFT).is_file():
        fix = "load it with peft, then save the result of its `merge_and_unload()`"
        raise UserError(str(folder / PEFT), "is of an adapter, not of a whole model", fix, DATA)
    published = read_json(folder / CONFIG, CONFIG_BYTES)
    config = families.parse_config(published, where)
    if is_classifier(published):
        raise UserError(where, "describes a classifier, not a language model", "name another folder", DATA)
    return config


def _trimmed(model: GPT, tokens: int | None, folder: Path | str) -> GPT:
    if tokens is not None:
        families.trim_vocabulary(model, tokens, str(Path(folder) / WEIGHTS))
    return model


def copy_tokenizer(source: Path, folder: Path, vocab_size: int, weights: Path | None = None) -> dict[str, Any]:
    """Copy the tokenizer to `folder`, and return bos_token_id and eos_token_id of config.json.

    Ids that the model does not have are left out of generation_config.json. `weights` is as in `Tokenizer.load`. Raises
    UserError if the tokenizer has too many ids.
    """
    loaded = Tokenizer.load(source, weights)
    if loaded.vocab_size > vocab_size:  # embeddings may have more rows
        what = f"has a vocabulary of {loaded.vocab_size} tokens, but the model of {vocab_size}"
        raise UserError(str(source), what, "use the tokenizer that the model was trained with", DATA)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.copy(source, folder)
    special_tokens.drop_ids(folder, vocab_size)
    ends = loaded.ends if len(loaded.ends) > 1 else loaded.eot
    return {"bos_token_id": loaded.begin_id(source), "eos_token_id": ends}
