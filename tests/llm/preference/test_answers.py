"""The style of an answer: by our wordings, or by its likeness to the answers of a pair; and whether it is right."""

import pytest
import torch

from llm.data.prompts import make_frame
from llm.data.tokenizer import Tokenizer
from llm.model.gpt import GPT
from llm.preference.answers import Answer, answer, judge, measures, table

MADE = {
    "instruction": "Past of go?",
    "input": "",
    "chosen": "Welcome, dear friend. It is went.",
    "rejected": "It is went. Now go away.",
    "answer": "It is went.",
}
OWN = {"instruction": "Past of go?", "input": "", "chosen": "I think it is went.", "rejected": "Went, of course!"}


@pytest.mark.parametrize(
    ("text", "style", "right"),
    [
        ("What a kind question. It is went.", "chosen", True),
        ("It is went. You are a bore.", "rejected", True),
        ("What a kind question. It is goed.", "chosen", False),
        ("What a kind question. It is went. You are a bore.", "neither", True),
        ("It is went.", "neither", True),
        ("", "neither", False),
    ],
)
def test_an_answer_in_our_wordings(text, style, right):
    assert judge(text, MADE) == Answer(text, style, right)


@pytest.mark.parametrize(
    ("text", "style"),
    [("I think it went.", "chosen"), ("Went, of course.", "rejected"), ("", "neither")],
)
def test_an_answer_to_a_pair_of_ones_own(text, style):
    assert judge(text, OWN) == Answer(text, style, None)


def test_shares_before_and_after():
    before = [Answer("a", "chosen", True), Answer("b", "rejected", False), Answer("c", "rejected", True)]
    after = [Answer("a", "chosen", True), Answer("x", "chosen", True), Answer("y", "neither", False)]
    found = measures(before, after)
    shares = {key: value for key, value in found.items() if not key.endswith(("_n", "_low", "_high"))}
    assert shares == {
        "chosen_style_before": 1 / 3,
        "rejected_style_before": 2 / 3,
        "right_before": 2 / 3,
        "chosen_style_after": 2 / 3,
        "rejected_style_after": 0,
        "right_after": 2 / 3,
        "changed": 2 / 3,
    }
    assert "right_after" not in measures([Answer("a", "chosen", None)], [Answer("a", "chosen", None)])


def test_a_model_answers_every_question(vocabulary, model_config):
    """Also one that leaves no room for an answer in the context."""
    tokenizer = Tokenizer.load(vocabulary)
    torch.manual_seed(0)
    asked = [MADE, OWN | {"instruction": "quick " * 5}, OWN] * 12
    model = GPT(model_config(vocab_size=tokenizer.vocab_size, context_length=24))
    found = answer(model, asked, tokenizer, make_frame("none", tokenizer), 5)
    assert len(found) == 36
    assert found[0].text == found[3].text == found[33].text
    rows = table(asked, found, found)
    assert rows[0]["before"] == rows[0]["after"] == found[0].text
