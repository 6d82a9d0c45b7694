"""Compare the models of `reason_models` on the same test problems: data/reason_answers -> data/reason_comparison.

The table has the response of every model to each problem.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from llm.common import files
from llm.evaluate.paired import paired_difference
from llm.evaluate.stats import mcnemar, wilson, with_interval
from stages.run import run_stage, stage

ANSWERS = Path("data/reason_answers")
# A column of the table, and the key of an answer: right or not, or the share of right samples
MEASURES = {"accuracy": "right", "accuracy_with_steps": "right_with_steps", "sampled_accuracy": "share_right"}
Answers = Mapping[str, Sequence[float]]  # by key, of each problem


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    reason_models: dict[str, str]


def main(params: Params) -> None:
    """Write a row for each model, and how much better some are than others."""
    with stage("reason_compare", params) as run:
        every = {name: files.read_json(ANSWERS / name / "answers.json") for name in params.reason_models}
        found = {name: by_measure(answers) for name, answers in every.items()}
        run.turn_to("compute")
        rows = [row(name, answers) for name, answers in found.items()]
        differences: dict[str, Any] = {}
        for first, second in pairs(list(found)):
            differences |= difference(first, found[first], second, found[second])
        run.turn_to("save")
        side_by_side(run.out("data/reason_comparison") / "responses.csv", every)
        columns = ["model", *(f"{name}{end}" for name in MEASURES for end in ("", "_ci95_low", "_ci95_high"))]
        run.write_table("models", columns, rows)
        run.write_metrics(differences)
        for name, *values in rows:
            run.say(", ".join([name, *(f"{each} {values[3 * i]:.3f}" for i, each in enumerate(MEASURES))]))


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Each model after the first one, and after the one before it."""
    return list(dict.fromkeys([*((names[0], name) for name in names[1:]), *pairwise(names)]))


def side_by_side(path: Path, every: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write a row for each problem, with what every model said and whether it was right."""
    columns = ["question", "answer", *(f"{name}{end}" for name in every for end in ("", "_right"))]
    rows = []
    for answers in zip(*every.values(), strict=True):
        said = [cell for answer in answers for cell in (answer["response"], answer["right"])]
        rows.append([answers[0]["question"], answers[0]["answer"], *said])
    files.write_csv(path, columns, rows)


def by_measure(answers: Sequence[Mapping[str, Any]]) -> Answers:
    """What a model got right, problem by problem."""
    return {key: [float(answer[key]) for answer in answers] for key in MEASURES.values()}


def row(name: str, answers: Answers) -> list[Any]:
    """The means of a model with their 95 % intervals.

    The interval of samples is that of one answer to each problem, so it is too wide rather than too narrow.
    """
    cells: list[Any] = [name]
    for key in MEASURES.values():
        values = answers[key]
        cells += [sum(values) / len(values), *wilson(sum(values), len(values))]
    return cells


def difference(first: str, before: Answers, second: str, after: Answers) -> dict[str, Any]:
    """How much better the second model is: means with bootstrap intervals, and McNemar's test where answers are one."""
    told: dict[str, Any] = {}
    for measure, key in MEASURES.items():
        name, found = f"{second}_over_{first}_{measure}", paired_difference(before[key], after[key])
        told |= with_interval(name, found.mean, found.interval)
        if key == "share_right":
            continue
        both = list(zip(before[key], after[key], strict=True))
        lost, won = both.count((1.0, 0.0)), both.count((0.0, 1.0))
        told |= {f"{name}_only_{first}": lost, f"{name}_only_{second}": won, f"{name}_mcnemar_p": mcnemar(lost, won)}
    return told


if __name__ == "__main__":
    run_stage(main, Params)
