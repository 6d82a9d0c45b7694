"""What a loaded model reads before a text, and where its answers end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm.common.errors import UserError
from llm.data.tokenizer import Tokenizer
from llm.generate.config import greedy
from llm.generate.decoding import generate
from llm.generate.session import Session
from llm.model.gpt import GPT
from llm.weights import model_folder
from tests import tiny_tokenizers
from tests.tiny import FP32, MODEL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_tokenizers.make("llama3", tmp_path / "tokenizer")


def session(folder: Path, always: int | None = None) -> Session:
    """A tiny model with the tokenizer of the folder; it writes the token `always`."""
    torch.manual_seed(0)
    model = GPT(replace(MODEL, vocab_size=Tokenizer.load(folder).vocab_size, tie_head=False))
    if always is not None:
        with torch.no_grad():
            for parameter in (model.transformer.ln_f.weight, model.transformer.ln_f.bias, model.lm_head.weight):
                parameter.zero_()
            model.transformer.ln_f.bias[0] = model.lm_head.weight[always, 0] = 1
    model_folder.save_model(model, folder, folder.parent / "model")
    return Session(folder.parent / "model", greedy(3), FP32, 0)


def test_an_answer_ends_at_every_token_that_ends_a_text_or_a_turn(folder: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    ends = {tokenizer.special[text] for text in ("<|end_of_text|>", "<|eot_id|>")}
    for token in (*ends, tokenizer.special["<|start_header_id|>"], 65):
        written = "" if token in ends else 3 * tokenizer.decode([token])
        assert session(folder, token).answer("the user") == written


def test_a_text_is_read_after_the_token_that_stands_before_every_text(folder: Path) -> None:
    loaded = session(folder)
    bos = loaded.tokenizer.bos
    assert bos is not None
    ids = loaded.tokenizer.encode("the user")
    new = generate(loaded.model, [[bos, *ids]], greedy(3), loaded.tokenizer.stops)[0]
    assert loaded.answer("the user") == loaded.tokenizer.decode(new)
    context = loaded.model.config.context_length
    text = loaded.tokenizer.decode([65] * (context - 3))  # room for 3 new tokens only without the first token
    assert len(loaded.tokenizer.encode(text)) == context - 3
    with pytest.raises(UserError, match=str(context)):
        loaded.answer(text)
