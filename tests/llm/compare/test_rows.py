"""Messages and answers of any classes and forms."""

import pytest

from llm.common import files
from llm.common.errors import UserError
from llm.compare import rows
from llm.compare.headlines import EXACT, LOSS, value
from llm.compare.snapshot import resolve
from tests.llm.compare.conftest import MESSAGES, write_run


@pytest.mark.parametrize(
    ("row", "label", "expected"),
    [
        ({"spam_probability": "0.9"}, "spam", 0.9),
        ({"spam_probability": "0.9"}, "ham", 0.1),
        ({"p_ham": "0.2", "p_spam": "0.3", "p_other": "0.5"}, "other", 0.5),
        ({"split": "test"}, "ham", None),
    ],
)
def test_the_probability_of_a_class(row, label, expected):
    assert rows.probability(row, label) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("path", "text", "read"),
    [
        (rows.PREDICTIONS, "split,row\ntest,1\n", rows.messages),
        (rows.PREDICTIONS, "split,row,actual,predicted,p_a\ntest,x,a,a,0\n", rows.messages),
        (rows.RESPONSES, '{"a": 1}', rows.answers),
        (rows.RESPONSES, '[{"messages": []}]', rows.answers),
        (rows.SCORES, "[1]", rows.answers),
        (LOSS.report, "[1]", lambda snapshot: value(LOSS, snapshot)),
    ],
)
def test_a_report_of_another_form_is_named(project, path, text, read):
    files.write_text(path, text)
    with pytest.raises(UserError, match=rf"^{path}: h(as|olds) .* \| fix: run its stage again$"):
        read(resolve("workspace"))


@pytest.mark.parametrize("metrics", [{"n_exact": 1}, {"n_exact": 1, "n_items": 0}, {"n_exact": 2, "n_items": 1}])
def test_a_share_without_its_number_of_items_is_none(project, metrics):
    files.write_json(EXACT.report, metrics)
    assert value(EXACT, resolve("workspace")).value is None


@pytest.mark.parametrize(("text", "reference", "exact"), [("Red.", "Red. \n", True), ("Red.", "red.", False)])
def test_white_space_around_a_reference_does_not_count(text, reference, exact):
    assert rows.Answer("Which?", reference, text, None).exact is exact


def test_messages_of_three_classes(project):
    write_run(wrong=(4,), labels=("a", "b_c", "d"))
    found = rows.messages(resolve("workspace"))
    assert [one.right for one in found].count(False) == 1
    assert (found[4].actual, found[4].predicted, found[4].probability) == ("b_c", "d", 0.75)
    assert rows.texts(resolve("workspace")) == MESSAGES


def test_messages_that_became_wrong_come_first(project):
    write_run(wrong=(1, 2, 9, 5))
    found = rows.flips(rows.pairs(rows.messages(resolve("HEAD")), rows.messages(resolve("workspace"))))
    assert [(pair.first.row, pair.second.right) for pair in found] == [(5, False), (9, False), (0, True)]


def test_chats_and_equal_questions(project):
    chat = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    entry = {"instruction": "q", "input": "i", "output": "o"}
    answered = [entry | {"model_response": "x"}, entry | {"model_response": "y"}]
    files.write_json("reports/respond/responses.json", [{"messages": chat, "model_response": "z"}, *answered])
    found = rows.answers(resolve("workspace"))
    assert [one.key for one in found] == [("user: one", "two", 0), ("q\ni", "o", 0), ("q\ni", "o", 1)]
    assert [one.text for one in found] == ["z", "x", "y"]


def test_answers_with_the_largest_change_come_first(project):
    write_run(scores=[90, 10, *[100] * 18], answer=lambda n: "new" if n == 7 else f"answer {n}")
    found = rows.changed_answers(rows.pairs(rows.answers(resolve("HEAD")), rows.answers(resolve("workspace"))))
    assert [pair.first.question for pair in found] == ["question 1", "question 0", "question 7"]


def test_messages_that_were_cut_anew_are_not_those_of_the_predictions(project):
    lock = files.read_json("dvc.lock")
    lock["stages"]["tokenize@spam"] = {"cmd": "t", "outs": [{"path": "data/spam", "md5": "aa"}]}
    files.write_json("dvc.lock", lock)
    assert rows.texts(resolve("workspace")) == MESSAGES
    lock["stages"]["tokenize@spam"]["outs"][0]["md5"] = "cc"
    files.write_json("dvc.lock", lock)
    assert rows.texts(resolve("workspace")) == []
    assert rows.same_messages(resolve("HEAD"), resolve("workspace"))  # the predictions are still the same
