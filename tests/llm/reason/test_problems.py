"""Problems: splits by a hash, generated families, and a user's own file."""

from __future__ import annotations

import json
import random
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from llm.common.errors import UserError, UserErrors
from llm.reason import problems
from llm.reason.families import Addition, Clock, Family, draws
from llm.reason.problems import Problem, Style, Task, by_split, normal, read_source, split_of
from llm.reason.verifiers import VerifierName, exact

COUNTS = {"train": 30, "rl": 60, "validation": 15, "test": 15}
FAMILIES = [Clock(7, 5), Clock(10, 2), Addition(3, 3), Addition(2, 1)]
STYLE = Style("S", "A")


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_steps_lead_to_the_answer(family: Family) -> None:
    for problem in [next(draws(family, seed)) for seed in range(50)]:
        numbers = [int(text) for text in problem.question.split("+")]
        assert problem.steps
        if isinstance(family, Clock):
            sums = [sum(numbers[:n]) % family.hours for n in range(2, len(numbers) + 1)]
            assert problem.steps == "".join(map(str, sums))
            assert problem.answer == str(sum(numbers) % family.hours)
        else:
            assert int(problem.answer) == sum(numbers)
            columns = problem.steps.split()
            assert int(columns[-1] + "".join(column[1] for column in columns[-2::-1])) == sum(numbers)


def test_splits_share_no_problem_whatever_the_settings() -> None:
    first = by_split(draws(Clock(7, 5), 1), COUNTS, "x")
    second = by_split(draws(Clock(7, 5), 2), {**COUNTS, "train": 100}, "x")
    assert {split: len(found) for split, found in first.items()} == COUNTS
    where: dict[str, str] = {}
    for found in (first, second):
        for split, some in found.items():
            for problem in some:
                assert where.setdefault(problem.question, split) == split


def test_a_problem_is_drawn_once() -> None:
    found = by_split(draws(Clock(3, 2), 1), {"train": 2, "rl": 4, "validation": 0, "test": 1}, "x")
    questions = [problem.question for some in found.values() for problem in some]
    assert len(set(questions)) == len(questions) == 7


def test_case_and_white_space_do_not_change_the_split() -> None:
    assert normal(" Who  is\nit? ") == normal("who is it?")
    assert {split_of(f"{text}?") for text in map(str, range(100))} == set(problems.SPLITS)
    assert all(split_of(f" {text} A") == split_of(f"{text}\ta") for text in range(100))


def test_too_few_problems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm.reason.families.DRAWS", 500)
    with pytest.raises(UserError, match=r"params.yaml: reason_problems: there are too few .* of 30 for train"):
        by_split(draws(Clock(3, 1), 1), COUNTS, "reason_problems")


def test_draws_depend_on_the_seed_alone() -> None:
    first, again, other = (
        [p.question for p, _ in zip(draws(Addition(3, 3), s), range(9), strict=False)] for s in (1, 1, 2)
    )
    assert first == again
    assert not set(first) & set(other)
    random.seed(1)  # the global generator plays no part
    assert [p.question for p, _ in zip(draws(Addition(3, 3), 1), range(9), strict=False)] == first


# Style


def test_a_response_is_read_back() -> None:
    problem = Problem("4+3", "0", "0")
    assert (STYLE.response(problem, True), STYLE.response(problem, False)) == ("S0A0", "A0")
    assert [STYLE.answer(text) for text in ("S0A0", "A0", "A1A2", "S00", "A", "")] == ["0", "0", "2", None, None, None]
    assert Style("Let us see.", "").answer("Let us see. It is 7.\n") == "Let us see. It is 7."
    words = Style("Steps: ", "\nAnswer: ")
    assert words.answer("Steps: 1 + 1\nAnswer: 2\n") == "2"


# A user's own file


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_own_problems_keep_the_split_that_they_name(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.jsonl",
        {"question": "1 + 1?", "answer": "2", "steps": "1, 2", "split": "train"},
        "",
        json.dumps({"question": "2\u2028+ 2?", "answer": "4"}, ensure_ascii=False),  # a line end of Unicode only
    )
    found = read_source(path, Task("number", STYLE))
    assert found["train"][0] == Problem("1 + 1?", "2", "1, 2")
    assert found[split_of("2\u2028+ 2?")][-1] == Problem("2\u2028+ 2?", "4")
    assert sum(map(len, found.values())) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "is not an object"),
        ({"question": "a"}, "answer is missing"),
        ({"question": "a", "answer": 4}, "answer is 4, not a text"),
        ({"question": " ", "answer": "4"}, "question is empty"),
        ({"question": "a", "answer": "4", "steps": ""}, "steps is '', not a text"),
        ({"question": "a", "answer": "4", "split": "dev"}, "split is 'dev'"),
        ({"question": "a", "answer": "4", "level": 1}, "unknown key 'level'"),
        ({"question": "a", "answer": "1/2"}, "the verifier number reads only the last number of the answer '1/2'"),
        ({"question": "a", "answer": "10-7"}, "the verifier number reads only the last number of the answer '10-7'"),
        ({"question": "a", "answer": "10^3"}, "the verifier number reads only the last number of the answer '10^3'"),
        ({"question": "a", "answer": "four"}, "the verifier number cannot read the answer 'four'"),
        ({"question": "ONE?", "answer": "1"}, "the question of line 1 again"),
        ("{", "mine.jsonl:2"),
    ],
)
def test_bad_lines_are_refused(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "mine.jsonl", {"question": "one?", "answer": "1"}, line)
    with pytest.raises(UserError) as caught:
        read_source(path, Task("number", STYLE))
    assert f"{path}:2: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("verifier", "style", "problem", "read"),
    [
        ("choice", STYLE, Problem("Which?", "A"), "None"),
        ("exact", STYLE, Problem("Who?", "Anna A. Bell"), "'. Bell'"),
        ("regex", STYLE, Problem("Who?", "Ann|Ada"), "'da'"),
        ("exact", Style("S", " "), Problem("6 + 3?", "9", "6 + 3"), "'S6 + 3 9'"),
    ],
)
def test_an_answer_that_is_read_otherwise_in_its_solution_is_refused(
    tmp_path: Path, verifier: VerifierName, style: Style, problem: Problem, read: str
) -> None:
    path = write(tmp_path / "mine.jsonl", asdict(problem))
    with pytest.raises(UserError, match=f" is read as {re.escape(read)}, not as '{re.escape(problem.answer)}'"):
        read_source(path, Task(verifier, style))


def test_a_style_without_a_mark_keeps_the_answer_apart_from_the_steps(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"question": "6 + 3?", "answer": "9", "steps": "6 + 3 = 9."})
    task = Task("number", Style("Steps: ", ""))
    (problem,) = [one for some in read_source(path, task).values() for one in some]
    assert task.style.response(problem, with_steps=True) == "Steps: 6 + 3 = 9. 9"
    assert task.style.response(problem, with_steps=False) == "9"


@pytest.mark.parametrize("indent", [None, 1])
def test_problems_in_a_json_list_are_read_as_in_lines(tmp_path: Path, indent: int | None) -> None:
    rows: list[object] = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(20)]
    (listed := tmp_path / "mine.json").write_text(json.dumps(rows, indent=indent))
    assert read_source(listed, Task("number", STYLE)) == read_source(
        write(tmp_path / "a", *rows), Task("number", STYLE)
    )
    listed.write_text(json.dumps([*rows, {"question": "a"}, rows[4]], indent=indent))
    with pytest.raises(UserErrors) as caught:
        read_source(listed, Task("number", STYLE))
    missing, again = map(str, caught.value.problems)
    assert f"{listed}: entry 21: answer is missing" in missing
    assert f"{listed}: entry 22: the question of entry 5 again" in again


def test_all_bad_lines_are_reported_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", {"question": "a"}, {"question": "b", "answer": "["})
    with pytest.raises(UserError) as caught:
        read_source(path, Task("regex", STYLE))
    assert [problem.where for problem in caught.value.problems] == [f"{path}:1", f"{path}:2"]  # type: ignore[attr-defined]


def test_written_problems_are_read_back(tmp_path: Path) -> None:
    found = by_split(draws(Clock(7, 5), 1), {**COUNTS, "rl": 0}, "x")
    problems.write(tmp_path, found, Task("exact", STYLE))
    assert problems.read(tmp_path, "train") == found["train"]
    assert problems.read_task(tmp_path) == Task("exact", STYLE)
    assert problems.read_task(tmp_path).check is exact
    with pytest.raises(UserError, match="the split rl has no problem"):
        problems.read(tmp_path, "rl")
