"""Parts of the stage finetune_spam: what it asks the disk for."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from llm.common.params import load, parse
from llm.data.spam_dataset import SpamDataset
from llm.data.tokenizer import Tokenizer
from llm.model import memory
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from stages.finetune_spam import above_frozen_blocks, check_room
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
