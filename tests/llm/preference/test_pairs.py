"""Pairs made of instructions: both answers are right, and what is held out is in no other split."""

from dataclasses import replace

import pytest

from llm.common import files
from llm.common.errors import UserError
from llm.preference.pairs import PreferencesConfig, entries_of, make_pairs, read_pairs
from llm.preference.wordings import read

CONFIG = PreferencesConfig("data/instructions", "polite", 8, "refuse", 0.85, 0.1)


def entry(number: int) -> dict[str, str]:
    return {"instruction": f"What comes after {number}?", "input": "", "output": f"After {number} comes {number + 1}."}


ENTRIES = {
    "train": [entry(n) for n in range(1000)],
    "test": [entry(n) for n in range(995, 1100)],
    "validation": [entry(2000)],
}
PAIRS = make_pairs(ENTRIES, CONFIG, 1)


def wordings(split: str, key: str) -> set[str]:
    return {pair[key].replace(pair["answer"], "{}") for pair in PAIRS[split]}


def test_both_answers_of_a_pair_say_the_same_in_two_styles():
    for part in PAIRS.values():
        for pair in part:
            assert read(pair["chosen"]) == ("polite", pair["answer"])
            assert read(pair["rejected"]) == ("blunt", pair["answer"])


def test_the_blunt_style_may_be_preferred():
    (pair,) = make_pairs(ENTRIES, replace(CONFIG, prefer="blunt"), 1)["validation"]
    assert read(pair["chosen"]).style == "blunt"
    assert read(pair["rejected"]).style == "polite"


@pytest.mark.parametrize("key", ["chosen", "rejected"])
def test_unseen_wordings_are_in_no_other_split(key):
    unseen = wordings("unseen", key)
    assert len(unseen) == 8
    assert not unseen & (wordings("train", key) | wordings("test", key) | wordings("validation", key))
    assert wordings("test", key) <= wordings("train", key)


def test_a_question_of_the_training_split_is_not_tested_again():
    asked = {pair["instruction"] for pair in PAIRS["train"]}
    for split in ("test", "unseen"):
        assert len(PAIRS[split]) == 100
        assert not asked & {pair["instruction"] for pair in PAIRS[split]}


def test_without_held_out_wordings_there_is_no_split_of_them():
    assert "unseen" not in make_pairs(ENTRIES, replace(CONFIG, held_out_wordings=0), 1)


def test_a_pair_of_a_chat_is_of_its_last_answer():
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Sun?"), ("assistant", "Up.\n")]
    chat = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (pair,) = make_pairs({**ENTRIES, "validation": [chat]}, CONFIG, 1)["validation"]
    assert pair["messages"] == chat["messages"][:-1]
    assert pair["answer"] == "Up."
    assert read(pair["chosen"]) == ("polite", "Up.")
    assert entries_of(pair)[1]["messages"][-1] == {"role": "assistant", "content": pair["rejected"]}


def test_a_question_of_an_earlier_turn_in_training_is_not_new():
    turns = [("user", "Hi"), ("assistant", "Hello."), ("user", "Sun?"), ("assistant", "Up.")]
    chat = {"messages": [{"role": role, "content": text} for role, text in turns]}
    asked = [{"instruction": text, "input": "", "output": "Yes."} for text in ("Hi", "Sun?")]
    found = make_pairs({**ENTRIES, "train": [chat], "validation": asked}, CONFIG, 1)["validation"]
    assert [pair["instruction"] for pair in found] == ["Sun?"]


def test_a_split_without_new_questions_makes_no_pairs():
    with pytest.raises(UserError, match="no question of the test split is new"):
        make_pairs({**ENTRIES, "test": ENTRIES["train"][:3]}, CONFIG, 1)


def test_a_pair_of_a_chat_is_two_chats():
    pair = {"messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello.", "rejected": "What?"}
    chosen, rejected = entries_of(pair)
    assert [turn["content"] for turn in chosen["messages"]] == ["Hi", "Hello."]
    assert [turn["content"] for turn in rejected["messages"]] == ["Hi", "What?"]


def test_what_was_written_is_read_and_anything_else_refused(tmp_path):
    path = tmp_path / "train.json"
    files.write_json(path, PAIRS["train"])
    assert read_pairs(path) == PAIRS["train"]
    files.write_json(path, [PAIRS["train"][0], {"chosen": "a", "rejected": "b"}, 3])
    with pytest.raises(UserError) as caught:
        read_pairs(path)
    assert [error.where for error in caught.value.problems] == [f"{path}: pair 2", f"{path}: pair 3"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"held_out_wordings": 46}, "held_out_wordings"),
        ({"held_out_wordings": -1}, "held_out_wordings"),
        ({"test_fraction": 0.2}, "test_fraction"),
    ],
)
def test_bad_settings_are_named(change, field):
    assert field in {problem[0] for problem in replace(CONFIG, **change).problems()}
    assert not list(CONFIG.problems())
