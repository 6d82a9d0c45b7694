"""Frozen blocks computed once: the scores and the training equal those of the whole model."""

import os
import resource
from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
import torch

from llm.common.errors import NO_ROOM
from llm.common.params import load, parse
from llm.data.batches import SequentialBatches, ShuffledBatches
from llm.data.spam_dataset import SpamDataset
from llm.data.tokenizer import Tokenizer
from llm.evaluate.accuracy import predict
from llm.model.classifier import Classifier, freeze
from llm.model.gpt import GPT
from llm.model.trainable import Position
from llm.train import frozen_blocks, losses
from llm.train.frozen_blocks import STATE_BYTES, UpperBlocks, compute, kept_lengths, last_block_at
from llm.train.loop import evaluation_batches, fit
from llm.train.task import Task
from stages.sections.finetune_spam import FinetuneSpamConfig
from tests.tiny import FP32

TEXTS = ["win", "the quick brown fox", "Every effort moves you", "jump over", "naïve café", "lazy dogs, 12", "", "fox"]
TRAINED = {"head": 0, "last_block": 1, "last_two_blocks": 2}


@pytest.fixture
def config() -> FinetuneSpamConfig:
    sample = parse(FinetuneSpamConfig, load("params.yaml")["finetune_spam"])
    return replace(sample, trainable="last_block", epochs=3, batch_size=3, lr=0.01, warmup_steps=0, eval_every=2)


@pytest.fixture
def messages(vocabulary) -> SpamDataset:
    data = SpamDataset([0, 1] * 4, TEXTS, Tokenizer.load(vocabulary), limit=16)
    data.width = 12
    return data


@pytest.fixture
def classifier(model_config):
    def make(position="last", trainable="last_block", **shape) -> Classifier:
        torch.manual_seed(0)
        model = Classifier(GPT(model_config(n_layer=3, **shape)), 2, position, 12)
        freeze(model, trainable)
        with torch.no_grad():  # at initialization, all positions of a tiny model are nearly equal
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.3)
        return model

    return make


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("trainable", TRAINED)
@pytest.mark.parametrize("position", get_args(Position))
def test_scores_equal_those_of_the_whole_model(position, trainable, qkv_bias, classifier, messages, tmp_path):
    model = classifier(position, trainable, qkv_bias=qkv_bias)
    frozen = 3 - TRAINED[trainable]
    states = compute(model, frozen, messages, FP32, tmp_path)
    expected = predict(model, SequentialBatches(messages, 3), FP32)
    found = predict(UpperBlocks(model, frozen), SequentialBatches(states, 3), FP32)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    wrong = predict(UpperBlocks(model, frozen - 1), SequentialBatches(states, 3), FP32)  # control: one block too many
    assert (wrong - expected).abs().max() > 0.01


@pytest.mark.parametrize("padding", [12, None])
@pytest.mark.parametrize("position", ["first", "last_token", "mean", "last_token_and_mean"])
def test_padding_to_the_batch_gives_the_same_scores(position, padding, classifier, messages, tmp_path):
    model, messages.width = classifier(position), padding
    states = compute(model, 2, messages, FP32, tmp_path)
    expected = predict(model, SequentialBatches(messages, 3), FP32)
    torch.testing.assert_close(
        predict(UpperBlocks(model, 2), SequentialBatches(states, 3), FP32), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("position", "padding"),
    [*((position, 12) for position in get_args(Position)), ("last_token", None), ("mean", None)],
)
def test_kept_lengths_is_the_number_of_states(position, padding, classifier, messages, tmp_path):
    model, messages.width = classifier(position), padding
    expected = kept_lengths(messages, position, model.gpt_config.context_length)
    states = compute(model, 2, messages, FP32, tmp_path)
    assert [end - start for start, end in pairwise(states.starts)] == expected
    assert states.states.shape == (sum(expected), model.gpt_config.n_embd)
    assert states.states.element_size() == STATE_BYTES


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system has no posix_fallocate")
def test_a_full_disk_is_an_error_and_no_signal(classifier, messages, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            compute(classifier(), 2, messages, FP32, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno in NO_ROOM


@pytest.mark.parametrize("keep", ["last", "best"])
def test_training_ends_with_the_weights_of_the_whole_model(keep, config, classifier, messages, tmp_path):
    if keep == "best":
        config = replace(config, keep=keep, patience=1, eval_every=1, schedule="constant")

    def train(model, trained, data):
        steps = 2 * config.epochs
        batches = ShuffledBatches(data, 3, steps, 0)
        task = Task(trained, losses.classification, batches, evaluation_batches(data, data, config))
        history = fit(task, config, FP32, 0)
        return history, [p.detach().clone() for p in model.parameters() if p.requires_grad]

    # no key biases: their gradient is only rounding noise, which AdamW scales up to full steps
    whole = classifier(qkv_bias=False)
    expected, weights = train(whole, whole, messages)
    model = classifier(qkv_bias=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found, same = train(model, UpperBlocks(model, 2), compute(model, 2, messages, FP32, tmp_path))
    for ours, theirs in zip(same, weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert [row["val_loss"] for row in found.rows] == pytest.approx([row["val_loss"] for row in expected.rows], 1e-4)
    assert [row["tokens_seen"] for row in found.rows] == [row["tokens_seen"] for row in expected.rows]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert {name.split(".")[1] for name in moved} == {"h", "ln_f", "weight", "bias"}
    assert keep == "last" or 0 < found.best["step"] < found.step, "no earlier weights are restored"
    assert not any(name.startswith(("transformer.h.0", "transformer.h.1")) for name in moved)


def test_last_block_at_computes_one_position_from_those_before_it(classifier):
    block = classifier().transformer.h[0]
    x, positions = torch.randn(2, 6, 8), torch.tensor([5, 2])
    whole = block(x, None, None, None)
    torch.testing.assert_close(last_block_at(block, x, positions, None), whole[[0, 1], positions])
    later = x.clone()
    later[1, 3:] = torch.randn(3, 8)  # after the position that is read in row 1
    torch.testing.assert_close(last_block_at(block, later, positions, None), whole[[0, 1], positions])
    later[1, 1] = torch.randn(8)  # control: before it
    assert (last_block_at(block, later, positions, None)[1] - whole[1, 2]).abs().max() > 1e-3


def test_states_of_padding_are_kept_only_if_they_are_read(classifier, messages, tmp_path):
    tokens = sum(max(1, len(ids)) for ids in messages.ids)
    assert len(compute(classifier("last_token"), 2, messages, FP32, tmp_path).states) == tokens
    assert len(compute(classifier("last"), 2, messages, FP32, tmp_path).states) == 12 * len(messages)
    assert list(tmp_path.iterdir()) == []  # the file has no name


@pytest.mark.parametrize(
    ("change", "frozen"),
    [
        ({}, 11),
        ({"trainable": "head"}, 12),
        ({"trainable": "last_two_blocks"}, 10),
        ({"trainable": "all"}, 0),
        ({"trainable": "lora"}, 0),
        ({"dropout": 0.1}, 0),
        ({"causal": False, "padding": "longest"}, 0),
        ({"frozen_prefix": False}, 0),
    ],
)
def test_blocks_count_as_frozen_only_if_their_states_cannot_change(config, change, frozen):
    assert replace(config, **change).frozen_blocks(12) == frozen


def test_a_model_with_fewer_blocks_than_are_trained_has_no_frozen_ones(config):
    assert replace(config, trainable="last_two_blocks").frozen_blocks(1) == 0


def test_states_are_computed_in_batches(classifier, messages, tmp_path, monkeypatch):
    expected = compute(classifier(), 2, messages, FP32, tmp_path).states
    monkeypatch.setattr(frozen_blocks, "ROWS", 3)
    torch.testing.assert_close(compute(classifier(), 2, messages, FP32, tmp_path).states, expected)
