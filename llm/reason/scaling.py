"""Inference-time scaling: what several responses to one problem are good for (chapter F of the book).

Each method chooses one answer of n responses. `verifier` is right if any of the n is: it cannot be used where the
answer is not known, and says how much the others could gain at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llm.evaluate.stats import wilson
from llm.reason.responses import Response
from llm.reason.verifiers import Verifier

COLUMNS = ("opening", "method", "samples", "tokens", "accuracy", "accuracy_ci95_low", "accuracy_ci95_high", "problems")
Method = Callable[[Sequence[Response], Verifier], bool]  # whether the chosen answer is right


def majority(responses: Sequence[Response], same: Verifier) -> bool:
    """The answer that most responses give; of equally frequent ones, that which came first (self-consistency).

    Responses without an answer do not vote. Answers that are the `same` are one.
    """
    groups: list[list[Response]] = []
    texts: dict[str, list[Response]] = {}
    for one in responses:
        if one.answer is None:
            continue
        if one.answer not in texts:
            found = next((group for group in groups if same(one.answer, group[0].answer or "")), None)
            if found is None:
                groups.append(found := [])
            texts[one.answer] = found
        texts[one.answer].append(one)
    return max(groups, key=len)[0].right if groups else False


METHODS: dict[str, Method] = {
    "majority": majority,
    # the response whose tokens are the most likely on average
    "mean_logprob": lambda responses, _same: max(responses, key=lambda one: one.mean_logprob).right,
    # the response that is the most likely as a whole: short ones have an advantage
    "sum_logprob": lambda responses, _same: max(responses, key=lambda one: one.logprob).right,
    "verifier (upper bound)": lambda responses, _same: any(one.right for one in responses),
}


def curve(opening: str, found: Sequence[Sequence[Response]], same: Verifier) -> list[dict[str, Any]]:
    """A row for each method and number of samples: 1, 2, 4, ... up to as many responses as each problem has.

    With fewer samples than responses, a problem counts with the mean over all blocks of that many. The interval is that
    of the problems, so it is a little too wide there. `tokens` are those of all samples of a problem.
    """
    most, rows = len(found[0]), []
    n = 1
    while n <= most:
        blocks = [[one[start : start + n] for start in range(0, most - n + 1, n)] for one in found]
        tokens = sum(response.tokens for one in blocks for block in one for response in block)
        for name, method in METHODS.items():
            hits = sum(sum(method(block, same) for block in one) / len(one) for one in blocks)
            rows.append(row(opening, name, n, tokens / len(blocks[0]) / len(found), hits, len(found)))
        n *= 2
    return rows


def row(opening: str, method: str, samples: int, tokens: float, hits: float, problems: int) -> dict[str, Any]:
    """A row of scaling.csv; `tokens` is the mean for a problem."""
    low, high = wilson(hits, problems)
    return dict(zip(COLUMNS, (opening, method, samples, tokens, hits / problems, low, high, problems), strict=True))
