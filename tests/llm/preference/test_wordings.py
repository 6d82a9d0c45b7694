"""Polite and blunt wordings: they are told apart, and divided into those to train on and those held out."""

import pytest

from llm.preference.wordings import BLUNT, POLITE, divided, expanded, read

ANSWER = "The past tense of go is went."


@pytest.mark.parametrize(("style", "wordings"), [("polite", POLITE), ("blunt", BLUNT)])
def test_every_wording_is_read_as_its_own_style(style, wordings):
    assert len(set(wordings)) > 90
    assert all(read(wording.replace("{}", ANSWER)) == (style, ANSWER) for wording in wordings)


def test_several_wordings_are_taken_off_an_answer():
    assert read(f"Welcome, dear friend. {ANSWER} Have a nice day.") == ("polite", ANSWER)
    assert read(f"Welcome, dear friend. {ANSWER} Now go away.") == (None, ANSWER)


@pytest.mark.parametrize(
    "text", [ANSWER, "", "Now go away.", " Now go away.", f"{ANSWER} now go away.", f"{ANSWER} Now go"]
)
def test_a_text_without_a_whole_wording_has_no_style(text):
    assert read(text) == (None, text)


def test_a_phrase_stands_for_each_choice_of_its_alternatives():
    assert list(expanded("[A|B] c[|, d]. {}")) == ["A c. {}", "A c, d. {}", "B c. {}", "B c, d. {}"]
    assert list(expanded("{} End.")) == ["{} End."]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_held_out_wordings_are_those_of_both_places_and_none_to_train_on(seed):
    train, out = divided(POLITE, 7, seed)
    assert sorted([*train, *out]) == sorted(POLITE)
    assert len(out) == 7
    assert sum(wording.startswith("{}") for wording in out) == 3
    assert divided(POLITE, 7, seed) == (train, out)


def test_another_seed_holds_out_other_wordings():
    assert divided(BLUNT, 8, 1)[1] != divided(BLUNT, 8, 2)[1]
