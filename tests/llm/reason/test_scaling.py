"""What several responses to a problem are good for."""

from __future__ import annotations

import pytest

from llm.reason import scaling
from llm.reason.problems import Style, Task
from llm.reason.responses import Response
from llm.reason.verifiers import exact, number


def response(answer: str | None, logprob: float = -1.0, tokens: int = 4, wanted: str = "7") -> Response:
    return Response(f"A{answer}", answer, answer == wanted, (1,) * (tokens - 1), tokens, logprob, answer is not None)


def test_majority_takes_the_most_frequent_answer() -> None:
    assert scaling.majority([response("3"), response("7"), response("7")], exact)
    assert not scaling.majority([response("7"), response("3"), response("3")], exact)
    assert scaling.majority([response(None), response(None), response("7")], exact)  # no vote
    assert not scaling.majority([response(None)], exact)


def test_of_equally_frequent_answers_the_first_counts() -> None:
    assert scaling.majority([response("7"), response("3")], exact)
    assert not scaling.majority([response("3"), response("7")], exact)


def test_answers_that_are_equal_for_the_verifier_vote_together() -> None:
    votes = [response("3"), response("3"), response("7"), response("7.0"), response("07")]
    assert scaling.majority(votes, number)
    assert not scaling.majority(votes, exact)


@pytest.mark.parametrize("answer", ["(3", "[", "*", "."])
def test_answers_of_a_model_are_no_regular_expressions(answer: str) -> None:
    same = Task("regex", Style("S", "A")).same
    assert scaling.majority([response(answer), response("7"), response("7")], same)


def test_summed_log_probabilities_prefer_short_responses() -> None:
    both = [response("3", -2.0, 2), response("7", -4.0, 8)]
    assert not scaling.METHODS["sum_logprob"](both, exact)
    assert scaling.METHODS["mean_logprob"](both, exact)


def test_curve_takes_the_mean_over_all_blocks() -> None:
    right, wrong = response("7"), response("3")
    rows = scaling.curve("free", [[right, wrong, wrong, wrong], [right, right, wrong, right]], exact)
    by = {(row["method"], row["samples"]): row for row in rows}
    assert {samples for _, samples in by} == {1, 2, 4}
    assert by["majority", 1]["accuracy"] == 4 / 8
    assert by["majority", 2]["accuracy"] == (0.5 + 0.5) / 2  # of two, the first: 7 3, then 7 3
    assert by["majority", 4]["accuracy"] == 0.5
    assert by["verifier (upper bound)", 2]["accuracy"] == 0.75
    assert by["verifier (upper bound)", 4]["accuracy"] == 1.0
    assert [by["majority", n]["tokens"] for n in (1, 2, 4)] == [4, 8, 16]
    assert by["majority", 1]["accuracy_ci95_low"] < 0.5 < by["majority", 1]["accuracy_ci95_high"]
    assert tuple(rows[0]) == scaling.COLUMNS


@pytest.mark.parametrize("most", [1, 8])
def test_curve_goes_up_to_all_responses(most: int) -> None:
    rows = scaling.curve("free", [[response("7")] * most], exact)
    assert max(row["samples"] for row in rows) == most
