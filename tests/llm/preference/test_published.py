"""Pairs of one's own: all usual forms give the same pairs, and all problems are reported at once."""

import json
from dataclasses import replace

import pytest

from llm.common.errors import DATA, UserError
from llm.preference.pairs import PreferencesConfig
from llm.preference.published import Published, read_published

CONFIG = PreferencesConfig("own.jsonl", "polite", 8, "refuse", 0.5, 0.25)
USER = {"role": "user", "content": "Say {n}"}
PAIR = {"instruction": "Say {n}", "input": "", "chosen": "Here: {n}", "rejected": "No {n}"}


def filled(value, n):
    return json.loads(json.dumps(value).replace("{n}", str(n)))


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def read(tmp_path, rows, **changes) -> Published:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_published(path, replace(CONFIG, **changes))


def problems(tmp_path, rows, **changes) -> list[str]:
    with pytest.raises(UserError) as caught:
        read(tmp_path, rows, **changes)
    assert caught.value.code == DATA
    found = [str(problem) for problem in getattr(caught.value, "problems", [caught.value])]
    assert all(" | fix: " in line for line in found)
    return [line.removeprefix(f"{tmp_path}/own.jsonl: ") for line in found]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Say {n}", "chosen": "Here: {n}", "rejected": "No {n}", "score": 3},
        {"prompt": [USER], "chosen": "Here: {n}", "rejected": "No {n}"},
        {"prompt": [USER], "chosen": [said("Here: {n}")], "rejected": [said("No {n}")]},
        {"prompt": "Say {n}", "chosen": [USER, said("Here: {n}")], "rejected": [USER, said("No {n}")]},
        {"chosen": [USER, said("Here: {n}")], "rejected": [USER, said("No {n}")]},
        {"instruction": "Say {n}", "input": "", "output": "{n}", "chosen": "Here: {n}", "rejected": "No {n}"},
        {"instruction": "Say {n}", "chosen": "Here: {n}", "rejected": "No {n}"},
        {"question": "Say {n}", "chosen": "Here: {n}", "rejected": "No {n}"},
        {"instruction": "Say {n}", "chosen": [said("Here: {n}")], "rejected": [said("No {n}")]},
    ],
)
def test_all_forms_of_a_pair_are_read_alike(row, tmp_path):
    found = read(tmp_path, [filled(row, n) for n in range(8)])
    wanted = [filled(PAIR, n) for n in range(8)]
    assert found.splits == {"train": wanted[:4], "test": wanted[4:6], "validation": wanted[6:]}


def test_a_chat_of_several_turns_stays_one(tmp_path):
    before = [{"role": "system", "content": "Be kind."}, {"role": "human", "content": "Hi {n}"}]
    rows = [filled({"chosen": [*before, said("Hello.")], "rejected": [*before, said("What?")]}, n) for n in range(4)]
    pair = read(tmp_path, rows).splits["train"][1]
    assert [turn["role"] for turn in pair["messages"]] == ["system", "user"]
    assert pair["messages"][1]["content"] == "Hi 1"
    assert (pair["chosen"], pair["rejected"]) == ("Hello.", "What?")


SYSTEM = {"role": "system", "content": "Be kind."}
FIRST, SECOND = {"role": "user", "content": "One?"}, {"role": "user", "content": "Two?"}


@pytest.mark.parametrize(
    ("prompt", "before", "whole"),
    [
        ([SYSTEM, FIRST], [FIRST], [SYSTEM, FIRST]),
        ([FIRST], [SYSTEM, FIRST], [SYSTEM, FIRST]),
        ([FIRST, said("1"), SECOND], [SECOND], [FIRST, said("1"), SECOND]),
        ([FIRST], [said("1"), SECOND], [FIRST, said("1"), SECOND]),
        ([FIRST], [FIRST, said("1"), SECOND], [FIRST, said("1"), SECOND]),
    ],
)
def test_the_turns_of_prompt_and_chats_are_joined_once(prompt, before, whole, tmp_path):
    row = {"prompt": prompt, "chosen": [*before, said("a {n}")], "rejected": [*before, said("b")]}
    pair = read(tmp_path, [filled(row, n) for n in range(4)], doubtful="keep").splits["train"][1]
    assert (pair["messages"], pair["chosen"]) == (whole, "a 1")


def test_a_prompt_that_contradicts_the_chats_is_refused(tmp_path):
    chats = [{"role": "system", "content": "Be rude."}, FIRST]
    row = {"prompt": [SYSTEM, FIRST], "chosen": [*chats, said("a")], "rejected": [*chats, said("b")]}
    assert "pair 1: prompt is not what the chats begin with" in problems(tmp_path, [row] * 4)[0]


def test_system_and_input_belong_to_the_question_and_other_keys_are_counted(tmp_path):
    row = {"system": "Be kind.", "instruction": "Say it {n}", "input": "loud", "chosen": "a", "rejected": "b"}
    found = read(tmp_path, [filled({**row, "source": "x"}, n) for n in range(4)])
    asked = [SYSTEM, {"role": "user", "content": "Say it 1\n\nloud"}]
    assert found.splits["train"][1] == {"messages": asked, "chosen": "a", "rejected": "b"}
    assert found.other_keys == {"source": 4}
    chats = {"chosen": [SYSTEM, FIRST, said("a")], "rejected": [SYSTEM, FIRST, said("b")]}
    row = {"instruction": "One?", "input": "loud", **chats}
    assert "pair 1: input is not in the question of the chats: 'loud'" in problems(tmp_path, [row] * 4)[0]


def test_a_system_turn_is_not_doubled(tmp_path):
    row = {
        "system": "Be kind.",
        "prompt": [SYSTEM, {"role": "user", "content": "Say {n}"}],
        "chosen": "a",
        "rejected": "b",
    }
    pair = read(tmp_path, [filled(row, n) for n in range(4)]).splits["train"][1]
    assert pair["messages"] == [SYSTEM, {"role": "user", "content": "Say 1"}]


def test_an_input_is_part_of_the_question(tmp_path):
    rows = [{**filled(PAIR, 1), "input": f"number {n}"} for n in range(4)]
    assert [pair["input"] for pair in read(tmp_path, rows).splits["train"]] == ["number 0", "number 1"]


def test_all_problems_are_reported_at_once(tmp_path):
    good = {"prompt": "Say {n}", "chosen": "Here: {n}", "rejected": "No {n}"}
    rows = [filled(good, n) for n in range(12)]
    rows[0] |= {"rejected": rows[0]["chosen"]}
    rows[1] |= {"chosen": "  "}
    rows[2] |= {"prompt": ""}
    del rows[3]["rejected"]
    rows[4] |= {"chosen": 4}
    rows[5] = ["Say 5"]
    rows[6] |= {"chosen": [said("one")], "rejected": [{"role": "user", "content": "two"}]}
    rows[11] |= {"prompt": "Say 8"}
    assert [line.partition(" | ")[0] for line in problems(tmp_path, rows)] == [
        "pair 1: chosen and rejected are the same: 'Here: 0'",
        "pair 2: chosen is empty",
        "pair 3: prompt is empty",
        "pair 4: missing 'rejected'",
        "pair 5: chosen is 4, not a text",
        "pair 6: is ['Say 5'], not an object",
        "pair 7: a last turn is not the assistant's",
        "pair 12: its question is in the validation split, and as pair 9 in test",
    ]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"chosen": "a", "rejected": "b"}, "has no question"),
        ({"chosen": [said("a")], "rejected": [said("b")]}, "has no question"),
        ({"chosen": [], "rejected": [said("b")]}, "chosen is an empty list"),
        ({"chosen": [{"role": "robot", "content": "a"}], "rejected": [said("b")]}, "role is 'robot'"),
        ({"chosen": ["a"], "rejected": [said("b")]}, "chosen, turn 1: is 'a', not an object of role and content"),
        ({"chosen": [USER, said("a")], "rejected": [said("b")]}, "the turns before the answer differ"),
        ({"prompt": "Go", "chosen": [USER, said("a")], "rejected": [USER, said("b")]}, "prompt is not what the chats"),
        ({"prompt": "Go", "chosen": "\ud800", "rejected": "b"}, "chosen contains a lone surrogate"),
    ],
)
def test_a_pair_in_no_known_form_is_refused(row, what, tmp_path):
    assert what in problems(tmp_path, [row])[0]


def test_doubtful_pairs_are_skipped_or_kept(tmp_path):
    rows = [filled(PAIR, n) for n in range(8)]
    rows[1] |= {"rejected": rows[1]["chosen"]}
    rows[7] |= {"instruction": "Say 0"}
    skipped, kept = (read(tmp_path, rows, doubtful=policy) for policy in ("skip", "keep"))
    assert (skipped.alike, skipped.repeated) == (kept.alike, kept.repeated) == ([2], [8])
    assert {split: len(part) for split, part in skipped.splits.items()} == {"train": 3, "test": 2, "validation": 1}
    assert sum(map(len, kept.splits.values())) == 8


def test_too_few_pairs_for_three_splits_are_refused(tmp_path):
    assert "the test split is empty, with 2 pairs in all" in problems(tmp_path, [filled(PAIR, n) for n in range(2)])[0]
