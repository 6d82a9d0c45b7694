"""How a reply is read: strict, after thoughts, lenient, or as JSON."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.evaluate.judge_replies import fix_for, parse_choice, parse_score

STRICT = [("85", 85), (" 100\n", 100), ("0", 0)]
THOUGHTS = [
    ("<think>40</think>85", 85),
    ("<think>\nFair. Maybe 60?\n</think>\n\n85\n", 85),
    ("\n<think></think>0", 0),
    ("The tag that opens is in the template.</think>85", 85),
]
LENIENT = [
    ("85.0", 85),
    ("100.00", 100),
    ("85.", 85),
    ("85!", 85),
    ("Score: 85", 85),
    ("score = 85", 85),
    ("**Score:** 85/100", 85),
    ("The final score is 85.", 85),
    ("Rating: 7", 7),
    ("85/100", 85),
    ("85 / 100", 85),
    ("85 out of 100", 85),
    ("**85**", 85),
    ('"85"', 85),
    ("`85`", 85),
    ("85%", 85),
    ("85 points", 85),
    ("<think>a 40</think>**Score: 85**", 85),
]
NO_RULE = ["", "101", "850", "-5", "+85", "085", "8_5", "8*5", "85.5", "85,5", "8e1", "60 85", "60\n85", "8 5"]
NO_RULE += ["Score: 850", "Score: 85.5", "85/10", "85/1000", "8.5/10", "I'd say 85", "eighty-five", "Score: Score: 85"]
NO_RULE += ["\uff18\uff15", "\u0668\u0665", "85\u00a0", "\ufeff85", "Score: -5", "85 of 90", "Scored 85", "the 85"]
NO_RULE += ["<think>85", "<think>1</think>60</think>85", "<think>a<think>b</think>85", "85<think>no</think>", "Is 85"]


@pytest.mark.parametrize(("reply", "score"), STRICT)
@pytest.mark.parametrize("rule", ["strict", "thinking", "lenient"])
def test_every_rule_reads_the_number_alone(rule, reply, score):
    assert parse_score(reply, rule) == score


@pytest.mark.parametrize(("reply", "score"), THOUGHTS)
def test_thoughts_are_skipped_by_a_rule_that_says_so(reply, score):
    assert [parse_score(reply, rule) for rule in ("strict", "thinking", "lenient")] == [None, score, score]


@pytest.mark.parametrize(("reply", "score"), LENIENT)
def test_other_notations_are_read_by_the_lenient_rule_only(reply, score):
    assert [parse_score(reply, rule) for rule in ("strict", "thinking", "lenient")] == [None, None, score]


@pytest.mark.parametrize("reply", NO_RULE)
def test_no_rule_reads_what_is_unclear(reply):
    assert [parse_score(reply, rule) for rule in ("strict", "thinking", "lenient")] == [None, None, None]


@given(st.text("0123456789 .-/*\nScore:Ais"), st.sampled_from(["strict", "thinking", "lenient"]))
def test_a_score_is_always_from_0_to_100_and_in_the_reply(reply, rule):
    score = parse_score(reply, rule)
    assert score is None or (0 <= score <= 100 and str(score) in reply)


@pytest.mark.parametrize("reply", [" " * 1_000_000, "*" * 1_000_000 + "x", "<think>" * 150_000, "is " * 300_000])
def test_a_huge_reply_is_read_in_no_time(reply):
    start = time.thread_time()
    assert parse_score(reply, "lenient") is parse_choice(reply, "lenient") is None
    assert time.thread_time() - start < 1


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ('{"score": 85}', 85),
        (' {\n"score": 0 }\n', 0),
        ('{"score": 101}', None),
        ('{"score": -1}', None),
        ('{"score": 85.5}', None),
        ('{"score": "85"}', None),
        ('{"score": true}', None),
        ('{"score": 85, "why": "good"}', None),
        ("85", None),
        ("[85]", None),
        ('{"score": 85', None),
        ("[" * 100_000, None),
        ("", None),
    ],
)
def test_a_structured_reply_is_one_object(reply, score):
    assert parse_score(reply, "strict", structured=True) == score


def test_a_structured_reply_may_follow_thoughts_if_the_rule_says_so():
    reply = '<think>{"score": 1}</think>{"score": 85}'
    assert [parse_score(reply, rule, structured=True) for rule in ("strict", "thinking", "lenient")] == [None, 85, 85]


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        ("A", "A", "A"),
        (" B\n", "B", "B"),
        ("tie", "tie", "tie"),
        ("Tie.", None, "tie"),
        ("**A**", None, "A"),
        ("[[B]]", None, "B"),
        ("Response A", None, "A"),
        ("Verdict: B", None, "B"),
        ("The winner is A.", None, "A"),
        ("<think>B?</think>A", None, "A"),
        ("A B", None, None),
        ("A or B", None, None),
        ("C", None, None),
        ("A tie", None, None),
        ("", None, None),
        ("Both are good.", None, None),
    ],
)
def test_a_choice(reply, strict, lenient):
    assert (parse_choice(reply, "strict"), parse_choice(reply, "lenient")) == (strict, lenient)


def test_a_structured_choice():
    replies = [*(json.dumps({"choice": one}) for one in ("A", "B", "tie", "C", 1)), "A"]
    assert [parse_choice(reply, structured=True) for reply in replies] == ["A", "B", "tie", None, None, None]


def test_the_fix_names_the_rule_that_reads_the_reply():
    assert "judge.reply to thinking" in fix_for("<think></think>85", False, "strict", parse_score)
    assert "judge.reply to lenient" in fix_for("85.0", False, "strict", parse_score)
    assert "judge.model" in fix_for("Great!", False, "strict", parse_score)
    assert "judge.num_ctx" in fix_for("85.0", True, "strict", parse_score)
