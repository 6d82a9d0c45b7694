"""Model folders in Hugging Face's GPT-2 format, which transformers can open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from llm.common.errors import DATA, UserError
from llm.common.files import read_json, write_json
from llm.common.seeds import derive
from llm.data import tokenizer
from llm.data.tokenizer import Tokenizer
from llm.model.classifier import Classifier, Position
from llm.model.config import ModelConfig
from llm.model.gpt import GPT
from llm.model.lora import LoraConfig
from llm.weights import gpt2
from llm.weights.tensors import read_tensors, write_tensors

CONFIG, WEIGHTS, SCORE = "config.json", "model.safetensors", "score."
ADAPTER_CONFIG, ADAPTER = "adapter.json", "adapter.safetensors"


def save_model(model: GPT, tokenizer_folder: Path, folder: Path, prompt: str | None = None) -> None:
    """Write the model and its tokenizer to `folder`, and the prompt format it was trained with, if any."""
    eot = _copy_tokenizer(tokenizer_folder, folder, model.config.vocab_size)
    extra = {} if prompt is None else {"prompt": prompt}
    write_json(folder / CONFIG, gpt2.published(model.config, eot) | extra)
    write_tensors(folder / WEIGHTS, gpt2.export(model))


def load_model(folder: Path | str) -> GPT:
    """Read a model folder, from this project or any GPT-2 in Hugging Face's format; fp32 on the CPU.

    Raises UserError for a file that is missing, damaged or not GPT-2's. No code in a file is run.
    """
    return _load(Path(folder), read_config(Path(folder)))


def starting_point(folder: Path, weights: str, dropout: float, seed: int) -> GPT:
    """A model to fine-tune, with the folder's weights ("pretrained") or new ones of the same shape ("random").

    `dropout` replaces all dropout rates of the folder.
    """
    config = replace(read_config(folder), dropout=dropout, dropout_embedding=None, dropout_attention=None)
    if weights == "random":
        torch.manual_seed(derive(seed, "init"))
        return GPT(config)
    return _load(folder, config)


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """The tokenizer of a model folder."""
    return Tokenizer.load(folder)


def save_classifier(model: Classifier, labels: list[str], tokenizer_folder: Path, folder: Path) -> None:
    """Write a classifier: the transformer, the head `score.*`, the labels and the settings."""
    gpt = model.as_gpt()
    eot = _copy_tokenizer(tokenizer_folder, folder, gpt.config.vocab_size)
    extra: dict[str, Any] = {"architectures": ["Classifier"], "labels": labels}
    extra |= {"position": model.position, "pad_to": model.pad_to, "causal": model.causal}
    write_json(folder / CONFIG, gpt2.published(gpt.config, eot) | extra)
    score = {name: t.detach().cpu() for name, t in model.state_dict().items() if name.startswith(SCORE)}
    write_tensors(folder / WEIGHTS, gpt2.export(gpt) | score)


def save_adapter(adapter: Mapping[str, Tensor], config: LoraConfig, base: str, folder: Path) -> None:
    """Write the matrices that `merge_lora` returned, next to the merged model; `base` is the folder they apply to.

    For a classifier they are not enough: its head starts from random weights, which `base` does not have.
    """
    write_json(folder / ADAPTER_CONFIG, {"base": base} | asdict(config))
    write_tensors(folder / ADAPTER, {name: tensor.cpu() for name, tensor in adapter.items()})


def load_classifier(folder: Path | str) -> tuple[Classifier, list[str]]:
    """Read a classifier and its labels from a folder that `save_classifier` wrote."""
    folder = Path(folder)
    where = str(folder / CONFIG)
    published = read_json(folder / CONFIG)
    config = gpt2.parse_config(published, where)
    labels, position, pad_to = (published.get(key) for key in ("labels", "position", "pad_to"))
    causal = published.get("causal", True)
    if published.get("architectures") != ["Classifier"] or not labels or position not in get_args(Position):
        what = f"describes {published.get('architectures')}, not a classifier with its labels and position"
        raise UserError(where, what, "name a folder written by finetune_spam, such as models/spam", DATA)
    _check_settings(labels, pad_to, causal, where)
    tensors = read_tensors(folder / WEIGHTS)
    score = {name.removeprefix(SCORE): tensors.pop(name) for name in list(tensors) if name.startswith(SCORE)}
    gpt = gpt2.load_published(config, tensors, str(folder / WEIGHTS))
    model = Classifier(gpt, len(labels), position, pad_to, causal)
    fits = {name: t.shape for name, t in score.items()} == {n: t.shape for n, t in model.score.state_dict().items()}
    if not fits or not all(torch.isfinite(tensor).all() for tensor in score.values()):
        what = f"the score tensors do not fit {len(labels)} labels, or hold NaN or infinity"
        raise UserError(str(folder / WEIGHTS), what, "run `dvc checkout`", DATA)
    model.score.load_state_dict(score)
    return model, labels


def _check_settings(labels: Any, pad_to: Any, causal: Any, where: str) -> None:
    different = isinstance(labels, list) and all(type(one) is str for one in labels) and len(set(labels)) == len(labels)
    width = pad_to is None or (type(pad_to) is int and pad_to > 0)
    for key, value, fine, kind in [
        ("labels", labels, different, "a list of different strings"),
        ("pad_to", pad_to, width, "null or a whole number above 0"),
        ("causal", causal, type(causal) is bool, "true or false"),
    ]:
        if not fine:
            raise UserError(where, f"{key} is {value!r}, not {kind}", "run `dvc checkout`", DATA)


def read_config(folder: Path) -> ModelConfig:
    """The settings of the language model in a folder."""
    where = str(folder / CONFIG)
    published = read_json(folder / CONFIG)
    config = gpt2.parse_config(published, where)
    if published.get("architectures") == ["Classifier"]:
        raise UserError(where, "describes a classifier, not a language model", "name another folder", DATA)
    return config


def _load(folder: Path, config: ModelConfig) -> GPT:
    return gpt2.load_published(config, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))


def _copy_tokenizer(source: Path, folder: Path, vocab_size: int) -> int:
    """Copy the tokenizer to `folder` and return its end-of-text token; raises UserError if the sizes differ."""
    loaded = Tokenizer.load(source)
    if loaded.vocab_size != vocab_size:
        what = f"has a vocabulary of {loaded.vocab_size} tokens, but the model of {vocab_size}"
        raise UserError(str(source), what, "use the tokenizer that the model was trained with", DATA)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.copy(source, folder)
    return loaded.eot
