"""Two models compared: both orders, ties, win rate and sign test, a journal, and the offline comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm.common import http
from llm.common.errors import DATA, SERVICE, UserError
from llm.evaluate.judge_journal import Verdict
from llm.evaluate.judge_prompts import pairwise_prompt
from llm.evaluate.pairwise import Pair, compare, lines, read_others, require_coverage
from llm.evaluate.stats import mcnemar, wilson
from tests.fake_judge import FakeJudge, answer, status
from tests.llm.evaluate.judging import CONFIG, ENTRY, alpaca

GOOD, BAD = "The car is a good bolt.", "The car is bad."


@pytest.fixture(autouse=True)
def _quick_and_alone(monkeypatch):
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def with_answers(*texts: str) -> list[dict[str, str]]:
    return [{**ENTRY, "instruction": f"Task {i}.", "model_response": text} for i, text in enumerate(texts)]


def prefers_good(handler) -> None:
    """A judge without position bias: it wants the word `good`."""
    a, _, b = handler.fake.asked[-1].prompt.partition("Response A:")[2].partition("Response B:")
    choice = {(True, False): "A", (False, True): "B"}.get(("good bolt" in a, "good bolt" in b), "tie")
    answer(choice)(handler)


def run(ours, theirs, *behaviours, journal=None, **changes):
    with FakeJudge("ollama", behaviours, trial=answer("A")) as fake:
        config = replace(CONFIG, url=fake.url, retries=0, **changes)
        return compare(with_answers(*ours), with_answers(*theirs), config, alpaca, journal), fake


def test_each_pair_is_asked_in_both_orders():
    pairs, fake = run([GOOD, BAD, "x"], [BAD, GOOD, "y"], prefers_good)
    assert [pair.outcome for pair in pairs] == ["win", "loss", "tie"]
    assert not any(pair.flipped for pair in pairs)
    assert (len(fake.trials), len(fake.asked)) == (1, 6)
    first, second = (asked.prompt for asked in fake.asked[:2])
    assert first.index(GOOD) < first.index(BAD)
    assert second.index(BAD) < second.index(GOOD)


@pytest.mark.parametrize("choice", ["A", "B"])
def test_a_judge_that_goes_by_place_makes_ties(choice):
    pairs, _ = run([GOOD, BAD], [BAD, GOOD], answer(choice))
    assert [(pair.outcome, pair.flipped) for pair in pairs] == [("tie", True)] * 2


def test_a_choice_in_one_order_only_is_a_tie():
    pairs, _ = run([GOOD], [BAD], answer("A"), answer("tie"))
    assert (pairs[0].outcome, pairs[0].flipped) == ("tie", False)


def test_equal_and_empty_answers_need_no_request():
    pairs, fake = run([GOOD, "", GOOD, " "], [GOOD + "\n", GOOD, "", ""], answer("A"))
    assert [pair.outcome for pair in pairs] == ["tie", "loss", "win", "tie"]
    assert not fake.asked
    assert not fake.trials
    assert pairs[1].first.flags == ("empty_answer",)


def test_an_unread_reply_leaves_a_pair_without_outcome():
    pairs, _ = run([GOOD, GOOD], [BAD, BAD], answer("A"), answer("I like A"), prefers_good)
    assert [pair.outcome for pair in pairs] == [None, "win"]
    with pytest.raises(UserError) as caught:
        require_coverage(pairs, CONFIG)
    assert caught.value.code == SERVICE
    assert "only 0.75 of 4 replies" in caught.value.what
    assert "'I like A'" in caught.value.what


def test_a_trial_that_is_no_choice_ends_the_run():
    with FakeJudge("ollama", [answer("A")], trial=answer("85")) as fake, pytest.raises(UserError) as caught:
        compare(with_answers(GOOD), with_answers(BAD), replace(CONFIG, url=fake.url), alpaca)
    assert "'85', not A, B or tie" in caught.value.what


def test_a_structured_choice():
    with FakeJudge("openai", [answer('{"choice": "B"}'), answer('{"choice": "A"}')]) as fake:
        fake.trial = answer('{"choice": "tie"}')
        config = replace(CONFIG, backend="openai", url=fake.url, structured=True, prompt="guarded")
        (pair,) = compare(with_answers(GOOD), with_answers(BAD), config, alpaca)
    assert pair.outcome == "loss"
    schema = fake.asked[0].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {"choice": {"type": "string", "enum": ["A", "B", "tie"]}}


def test_after_a_failure_only_the_remaining_questions_are_sent(tmp_path):
    journal = tmp_path / "pairs"
    ours, theirs = [GOOD, BAD, GOOD], [BAD, GOOD, "bad"]
    whole, _ = run(ours, theirs, prefers_good)
    behaviours = [prefers_good] * 3 + [status(500)] + [prefers_good]
    with FakeJudge("ollama", behaviours, trial=answer("A")) as fake:
        config = replace(CONFIG, url=fake.url, retries=0, max_failed=0)
        with pytest.raises(UserError, match="are kept"):
            compare(with_answers(*ours), with_answers(*theirs), config, alpaca, journal)
        assert compare(with_answers(*ours), with_answers(*theirs), config, alpaca, journal) == whole
        assert len(fake.asked) == 4 + 3
    assert compare(with_answers(*ours), with_answers(*theirs), config, alpaca, journal) == whole  # without the server


def test_offline_the_reference_scores_are_compared():
    best, wrong = ENTRY["output"], ENTRY["input"]
    ours, theirs = with_answers(best, wrong, best), with_answers(wrong, best, best)
    pairs = compare(ours, theirs, replace(CONFIG, backend="reference"), alpaca)
    assert [pair.outcome for pair in pairs] == ["win", "loss", "tie"]
    assert (pairs[0].first.reply, pairs[0].second.reply) == ("100 to 0", "0 to 100")


def test_the_markers_are_in_neither_answer_and_change_with_both():
    one, two = (pairwise_prompt(ENTRY, "formatted", b, 123, False) for b in ("x", "y"))
    marker = one.split("two lines ")[1].split(".")[0]
    assert one.splitlines().count(marker) == 4
    assert marker not in two


def pair(outcome, flipped=False) -> Pair:
    verdict = Verdict(0, "scored", 50, "", ())
    return Pair(0, outcome, flipped, verdict, verdict)


def test_the_table_has_the_rate_its_interval_and_the_sign_test():
    pairs = [pair("win")] * 8 + [pair("tie"), pair("tie", True)] + [pair("loss")] * 2 + [pair(None)]
    low, high = wilson(9, 12)
    assert lines(pairs, "a.json", "b.json", "ollama") == [
        "a.json against b.json (ollama), 12 of 13 pairs judged",
        "wins       8",
        "ties       2 (1 of them since the choice changed with the order)",
        "losses     2",
        f"win rate   75.0% (95 % interval {low:.1%} to {high:.1%}; a tie is half a win)",
        f"sign test  p = {mcnemar(8, 2):.3g} (without ties)",
    ]
    assert mcnemar(8, 2) == pytest.approx(2 * (45 + 10 + 1) / 1024)  # by hand: 10 throws, 8 or more, both sides
    assert len(lines([pair(None)], "a", "b", "c")) == 4


def test_equal_models_have_half_the_wins():
    pairs, _ = run([GOOD, BAD], [BAD, GOOD], prefers_good)
    assert "win rate   50.0%" in "\n".join(lines(pairs, "a", "b", "c"))


def test_files_with_other_questions_are_refused(tmp_path):
    ours = with_answers(GOOD, BAD)
    for name, theirs in (("short", ours[:1]), ("other", [ours[0], {**ours[1], "input": "Another."}])):
        (tmp_path / name).write_text(json.dumps(theirs))
    with pytest.raises(UserError, match=r"1 answers, but ours\.json has 2"):
        read_others(Path("ours.json"), ours, tmp_path / "short")
    with pytest.raises(UserError, match=r"other: entry 2: 'input' is not that of ours\.json") as caught:
        read_others(Path("ours.json"), ours, tmp_path / "other")
    assert caught.value.code == DATA
