"""Parts of the stage pretrain: its samples, and the key that an error of its windows names."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llm.common.errors import UserError
from llm.data.corpus import Pins, write_shards
from llm.data.tokenizer import Tokenizer, fingerprint
from llm.generate import decoding
from llm.model.gpt import GPT
from llm.tracking.tracker import NullTracker
from stages.pretrain import CORPUS, TOKENIZER, batches, continue_text, sample_prompt, samples_due, windows
from stages.run import Run
from stages.sections.pretrain import ShortWindows
from tests.tiny import FP32

PROMPT = "Every effort"


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_samples_are_drawn_in_the_precision_of_the_training(precision, dtype, vocabulary, model_config, monkeypatch):
    tokenizer = Tokenizer.load(vocabulary)
    model = GPT(model_config(vocab_size=tokenizer.vocab_size))
    seen = []
    choose = decoding.choose
    monkeypatch.setattr(decoding, "choose", lambda logits, *how: seen.append(logits.dtype) or choose(logits, *how))
    runtime = replace(FP32, precision=precision)
    text = continue_text(model, tokenizer, tokenizer.encode(PROMPT), 3, runtime)
    assert text.startswith(PROMPT)
    assert seen == [dtype] * 3
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("room", "fix"), [(2, "give 2 or less"), (0, "shorten sample_prompt")])
def test_a_sample_beyond_the_context_names_its_parameter(room, fix, vocabulary):
    tokenizer, config = Tokenizer.load(vocabulary), SimpleNamespace(sample_prompt=PROMPT, sample_tokens=3)
    prompt = tokenizer.encode(PROMPT)
    with pytest.raises(UserError) as caught:
        sample_prompt(tokenizer, config, len(prompt) + room)
    assert (caught.value.where, caught.value.fix) == ("params.yaml: pretrain.sample_tokens", fix)
    assert sample_prompt(tokenizer, config, len(prompt) + 3) == prompt


@pytest.mark.parametrize(
    ("short", "updates"),
    [(None, [4, 8, 12]), (ShortWindows(steps=3, context=5, batch_size=2), [7, 11])],
)
def test_epochs_begin_after_the_short_windows_and_are_as_long_as_their_full_batches(short, updates):
    config = SimpleNamespace(sample_after="epoch", short_windows=short, batch_size=5)
    due = samples_due(23, config)
    assert [update for update in range(14) if due(update)] == updates


def test_otherwise_every_evaluation_has_a_sample():
    assert samples_due(23, SimpleNamespace(sample_after="evaluation")) is None


@pytest.fixture
def params(vocabulary, tmp_path, monkeypatch):
    """Params in a folder whose training split has ten tokens, and twenty of them are asked for in a short window."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(vocabulary, TOKENIZER)
    CORPUS.mkdir()
    size = Tokenizer.load(TOKENIZER).vocab_size
    write_shards(CORPUS, "train", np.arange(10, dtype=np.uint32), 10, Pins(size, fingerprint(TOKENIZER)), 100)
    short = ShortWindows(steps=1, context=20, batch_size=1)
    pretrain = SimpleNamespace(batch_size=1, epochs=1, short_windows=short)
    return SimpleNamespace(seed=1, pretrain=pretrain)


def test_a_split_too_short_for_the_short_windows_names_their_key(params):
    with pytest.raises(UserError, match=r"params\.yaml: pretrain\.short_windows\.context: 20 tokens"):
        batches(windows("train", 300, 4, 4), params, 300)


def test_a_split_too_short_for_the_windows_names_theirs(params):
    with pytest.raises(UserError, match=r"params\.yaml: pretrain\.context: 30 tokens"):
        windows("train", 300, 30, 4)


def test_the_speed_of_a_row_is_of_the_updates_that_were_measured(tmp_path):
    """A GPU is not read at every update, and has no speed before the first reading."""

    class Told(NullTracker):
        def metrics(self, values, step):
            found.append(values.get("tokens_per_second"))

    found: list[float | None] = []
    run = Run("pretrain", None, tmp_path, Told())
    run.metrics({"loss/train": 6.0}, 0)
    for speed in (0.0, 0.0, 0.0, 50.0):
        run.progress(1, 4, 5.0, speed)
    run.metrics({"loss/train": 5.0}, 4)
    run.close()
    assert found == [None, 50.0]
