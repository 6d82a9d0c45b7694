"""Parts of the stage finetune_spam: what it asks the disk for, and what its card says."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from llm.common.params import load, parse
from llm.data.source import Source
from llm.data.spam_dataset import SpamDataset
from llm.data.tokenizer import Tokenizer
from llm.model import memory
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from stages.finetune_spam import Params, above_frozen_blocks, card, check_room
from stages.recipe import Recipe
from stages.sections.finetune_spam import FinetuneSpamConfig
from tests.tiny import FP32


@pytest.mark.parametrize("position", ["last", "last_token"])
def test_what_frozen_blocks_write_is_asked_for_before(position, vocabulary, model_config, monkeypatch, tmp_path):
    shape, tokenizer = model_config(n_layer=3), Tokenizer.load(vocabulary)
    data = {split: SpamDataset([0, 1], ["win", "see you at noon"], tokenizer, 16) for split in ("train", "test")}
    for part in data.values():
        part.width = 12
    sample = parse(FinetuneSpamConfig, load("params.yaml")["finetune_spam"])
    config = replace(sample, trainable="last_block", frozen_prefix=True, dropout=0.0, position=position)
    asked = []
    monkeypatch.setattr(memory, "check_training", lambda *arguments: asked.append(arguments[-1]))
    run = SimpleNamespace(work=tmp_path, say=lambda _text: None)

    check_room(Recipe(run, "finetune_spam", config, FP32, 1), shape, data, config, 10, 2)
    _, states = above_frozen_blocks(Classifier(GPT(shape), 2, position, 12), data, config, FP32, run)

    assert asked == [sum(part.states.untyped_storage().nbytes() for part in states.values())]
    assert (asked == [2 * 2 * 12 * 8 * 4]) == (position == "last")  # the control: padding counts where it is read
    check_room(Recipe(run, "finetune_spam", config, replace(FP32, ranks=3), 1), shape, data, config, 10, 2)
    assert asked[1] == 3 * asked[0]  # each rank writes its own


@pytest.mark.parametrize(
    ("position", "causal", "told"),
    [
        ("last_token", True, None),
        ("mean", True, "position mean."),
        ("last_token", False, "position last_token, without the causal mask."),
    ],
)
def test_the_card_says_where_transformers_gives_other_labels(position, causal, told):
    sample = parse(FinetuneSpamConfig, load("params.yaml")["finetune_spam"])
    config = replace(sample, position=position, causal=causal)
    names = ("accuracy_n", "accuracy_without_exact_n", "accuracy_without_near_n")
    metrics = {"trainable_parameters": 1, **{f"test_{name}": 10 for name in names}}
    run = SimpleNamespace(inputs=lambda _start: {})

    weaknesses = card(Params(1, FP32, config, Source("mine.csv")), run, ["ham", "spam"], metrics).weaknesses

    assert [told in line for line in weaknesses[1:]] == ([True] if told else [])
