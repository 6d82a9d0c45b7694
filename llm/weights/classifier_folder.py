"""Folders of classifiers in Hugging Face's format, which transformers opens with AutoModelForSequenceClassification.

Its classes have no bias after the head W. Classifiers of Llama and Qwen have none here either. For GPT-2, the
bias c is written as a part of the bias b of the final layer norm, whose output the head reads:
W (x + b) + c = W (x + b + d) with W d = c. It holds for every position that the head may read, since all of them are
means of hidden states. transformers itself reads the last token that is not padding, as `position: last_token` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from llm.common.errors import DATA, UserError
from llm.common.files import CONFIG_BYTES, UNROUNDED, read_json, write_json
from llm.data.class_splits import is_labels
from llm.data.tokenizer import Tokenizer
from llm.model.classifier import Classifier
from llm.model.trainable import Position
from llm.weights import families
from llm.weights.families import Checkpoint
from llm.weights.model_folder import CONFIG, OLD_CLASSIFIER, copy_tokenizer
from llm.weights.tensors import WEIGHTS, read_tensors, write_tensors

SCORE, NORM_BIAS = "score.", "transformer.ln_f.bias"
EXACT = 1e-6  # of the largest logit's bias


def save_classifier(model: Classifier, labels: list[str], tokenizer_folder: Path, folder: Path) -> None:
    """Write a classifier: the transformer, the head, the names of the classes and the settings.

    The tensor `score.bias` is written only where the layer norm cannot hold it, which takes rows of the head that
    depend on each other, such as more classes than `n_embd`. transformers ignores it.
    """
    gpt = model.as_gpt()
    tokens, tokenizer = copy_tokenizer(tokenizer_folder, folder, gpt.config.vocab_size), Tokenizer.load(folder)
    settings = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", settings | {"pad_token": tokenizer.end, "padding_side": "right"})
    config = families.published(gpt.config) | tokens
    extra: dict[str, Any] = {"architectures": [architecture(config)], "pad_token_id": tokenizer.eot}
    extra |= {"id2label": {str(number): label for number, label in enumerate(labels)}}
    extra |= {"label2id": {label: number for number, label in enumerate(labels)}}
    extra |= {"problem_type": "single_label_classification"}
    extra |= {"position": model.position, "pad_to": model.pad_to, "causal": model.causal}
    write_json(folder / CONFIG, config | extra, UNROUNDED)
    weight = model.score.weight.detach().cpu().contiguous()
    tensors = families.export(gpt) | {f"{SCORE}weight": weight}
    if model.score.bias is not None:
        bias = model.score.bias.detach().cpu()
        shifted = shifted_norm_bias(tensors[NORM_BIAS], weight, bias)
        tensors |= {f"{SCORE}bias": bias} if shifted is None else {NORM_BIAS: shifted}
    write_tensors(folder / WEIGHTS, tensors)


def architecture(published: Mapping[str, Any]) -> str:
    """The name of transformers' class for a classifier, from the `config.json` of its language model."""
    base = published["architectures"][0].removesuffix("LMHeadModel").removesuffix("ForCausalLM")
    return f"{base}ForSequenceClassification"


def shifted_norm_bias(norm_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor | None:
    """The bias (C,) of the layer norm that holds the head's bias too; None if no bias gives the same logits.

    `weight` is the head (classes, C) and `bias` is (classes,).
    """
    wide = weight.double()
    shift = torch.linalg.pinv(wide) @ bias.double()
    shifted = (norm_bias.double() + shift).float()
    error = (wide @ (shifted.double() - norm_bias.double()) - bias.double()).abs().max()
    return shifted if error <= EXACT * max(1.0, float(bias.abs().max())) else None


def load_classifier(folder: Path | str) -> tuple[Classifier, list[str]]:
    """Read a classifier and the names of its classes from a folder that `save_classifier` wrote.

    Raises UserError for another folder, also one with the older architecture `Classifier`.
    """
    folder = Path(folder)
    where = str(folder / CONFIG)
    published = read_json(folder / CONFIG, CONFIG_BYTES)
    config = families.parse_config(published, where)
    if published.get("architectures") == [OLD_CLASSIFIER]:
        raise UserError(where, "is of an older version of this project", "run `dvc repro finetune_spam`", DATA)
    labels, position, pad_to = (_labels(published), published.get("position"), published.get("pad_to"))
    causal = published.get("causal", True)
    known = published.get("architectures") == [architecture(families.published(config))]
    if not known or position not in get_args(Position):
        what = f"describes {published.get('architectures')}, not a classifier with its labels and position"
        raise UserError(where, what, "name a folder written by finetune_spam, such as models/spam", DATA)
    for key, value, fine, kind in [
        ("id2label", published.get("id2label"), labels is not None, "an object of different names for 0, 1, ..."),
        ("pad_to", pad_to, pad_to is None or (type(pad_to) is int and pad_to > 0), "null or a whole number above 0"),
        ("causal", causal, type(causal) is bool, "true or false"),
    ]:
        if not fine:
            raise UserError(where, f"{key} is {value!r}, not {kind}", "run `dvc checkout`", DATA)
    assert labels is not None
    tensors = read_tensors(folder / WEIGHTS)
    score = {name.removeprefix(SCORE): tensors[name] for name in tensors if name.startswith(SCORE)}
    gpt = Checkpoint(config, tensors.without(SCORE), str(folder / WEIGHTS)).model()
    model = Classifier(gpt, len(labels), position, pad_to, causal)
    if model.score.bias is not None:
        score.setdefault("bias", torch.zeros(len(labels)))
    fits = {name: t.shape for name, t in score.items()} == {n: t.shape for n, t in model.score.state_dict().items()}
    if not fits or not all(torch.isfinite(tensor).all() for tensor in score.values()):
        what = f"the score tensors do not fit {len(labels)} labels, or hold NaN or infinity"
        raise UserError(str(folder / WEIGHTS), what, "run `dvc checkout`", DATA)
    model.score.load_state_dict(score)
    return model, labels


def _labels(published: dict[str, Any]) -> list[str] | None:
    """The names of the classes in the order of their numbers; None if `id2label` is not an object of such names."""
    names = published.get("id2label")
    if not isinstance(names, dict) or sorted(names) != sorted(str(number) for number in range(len(names))):
        return None
    labels = [names[str(number)] for number in range(len(names))]
    return labels if is_labels(labels) else None
