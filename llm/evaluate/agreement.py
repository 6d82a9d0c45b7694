"""Agreement of two judges on the same answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.common.errors import DATA, UserError, raise_first
from llm.common.files import read_json
from llm.evaluate.stats import correlation

ANSWER = ("instruction", "input", "model_response")  # these keys identify an answer; they are optional
NO_SPREAD = "none: one judge's scores are all equal"


@dataclass(frozen=True)
class Agreement:
    """Statistics of the answers that both judges scored; a correlation is None if a judge's scores are all equal."""

    n_first: int  # answers that the first judge scored
    n_second: int
    n_common: int
    mean_first: float
    mean_second: float
    pearson: float | None
    spearman: float | None
    kendall: float | None  # tau-b


def agree(first: Path, second: Path) -> Agreement:
    """Compare two files of verdicts, written by the stage evaluate_with_judge or by `judge --out`.

    Raises UserError if a file has invalid verdicts, the answers differ, or no answer has a score in both files.
    """
    where, fix = f"{first}, {second}", "let both judges score the same answers"
    a, b = read_verdicts(first), read_verdicts(second)
    others = [index for index in sorted(a.keys() & b.keys()) if not _same(a[index], b[index])]
    if others:
        what = f"{len(others)} answers differ, the first is {others[0]}"
        raise UserError(where, what, fix, DATA)
    scored = [{index: one["score"] for index, one in side.items() if one["score"] is not None} for side in (a, b)]
    common = sorted(scored[0].keys() & scored[1].keys())
    if not common:
        what = f"no answer has a score in both files ({len(scored[0])} and {len(scored[1])} scores)"
        raise UserError(where, what, fix, DATA)
    x, y = ([side[index] for index in common] for side in scored)
    return Agreement(
        n_first=len(scored[0]),
        n_second=len(scored[1]),
        n_common=len(common),
        mean_first=math.fsum(x) / len(x),
        mean_second=math.fsum(y) / len(y),
        pearson=correlation("pearson", x, y),
        spearman=correlation("spearman", x, y),
        kendall=correlation("kendall", x, y),
    )


def read_verdicts(path: Path) -> dict[int, Mapping[str, Any]]:
    """The verdicts of a file by index. Raises UserError that lists the invalid ones."""
    records = read_json(path)
    fix = "give a file from `judge --out`, data/verdicts/verdicts.json or reports/evaluate_with_judge/scores.json"
    if not isinstance(records, list) or not records:
        raise UserError(str(path), f"holds {records!r:.40}, not a list of verdicts", fix, DATA)
    problems: list[UserError] = []
    found: dict[int, Mapping[str, Any]] = {}
    for number, record in enumerate(records):
        index, score = (record.get(key, "") if isinstance(record, dict) else "" for key in ("index", "score"))
        valid = type(index) is int and (score is None or (type(score) is int and 0 <= score <= 100))
        if valid and index not in found:
            found[int(index)] = record
        else:
            what = f"index {index} occurs twice" if valid else f"has index {index!r:.20} and score {score!r:.20}"
            problems.append(UserError(f"{path}: verdict {number}", what, fix, DATA))
    raise_first(problems, str(path))
    return found


def lines(found: Agreement) -> Sequence[str]:
    """The lines of a table."""
    measures = [("Pearson", found.pearson), ("Spearman", found.spearman), ("Kendall tau-b", found.kendall)]
    return [
        f"{'scored by both':<16} {found.n_common} (of {found.n_first} and {found.n_second})",
        f"{'means':<16} {found.mean_first:.2f} and {found.mean_second:.2f}",
        f"{'mean difference':<16} {found.mean_first - found.mean_second:+.2f}",
        *(f"{name:<16} {NO_SPREAD if r is None else format(r, '.3f')}" for name, r in measures),
    ]


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two verdicts are about the same answer: all keys that both have are equal."""
    return all(a[key] == b[key] for key in ANSWER if key in a and key in b)
