"""Measure reasoning models: `python -m benchmarks.reasoning [part ...]`.

Writes docs/reasoning-results.md; a part that is not run again keeps its figures. For each seed of a part, the stages of
appendix F run in a copy of the project, with problems, weights and samples of their own.
"""

from __future__ import annotations

import argparse
import csv
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from llm.book import runs
from llm.common import files, params, profiles
from stages.reason_compare import ANSWERS, MEASURES, by_measure, difference, row
from stages.schema import AllParams

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "reasoning-results.md"
HEAD = """\
# Reasoning models, measured

Written by `python -m benchmarks.reasoning`. Accuracy on test problems, which no training has seen. `greedy`: the
likeliest response. `steps forced`: the same after the mark that opens written steps. `sampled`: several samples of each
problem. Brackets are Wilson's 95 % interval over problems.
"""


@dataclass(frozen=True)
class Part:
    """A section of the page: models that are trained and evaluated, once for every seed."""

    title: str
    note: str
    models: Mapping[str, str]  # by their names in reason_models: what the page calls them
    tables: Callable[[Part, Path], list[str]]
    pairs: tuple[tuple[str, str], ...] = ()  # of models that are compared
    seeds: tuple[int, ...] = (1, 2, 3)
    profile: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)  # of params.yaml, after the profile


def main() -> None:
    """Run the parts named on the command line, all by default, and write their sections of the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reasoning", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"parts to run: {', '.join(PARTS)} (default: all)")
    chosen = parser.parse_args().part
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"unknown parts: {', '.join(unknown)}")
    for name in chosen or PARTS:
        write(OUT, PARTS[name].title, measure(PARTS[name]))


def measure(part: Part) -> list[str]:
    """The section of a part."""
    lines, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as parent:
        for seed in part.seeds:
            project = run(part, Path(parent) / str(seed), seed)
            lines += [f"### Seed {seed}", ""] * (len(part.seeds) > 1) + part.tables(part, project)
            print(f"{part.title}: seed {seed} done", file=sys.stderr)
        settings = params.read(AllParams, project / "params.yaml")
        n = files.read_json(project / "reports/reason_problems/metrics.json")["n_test"]
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (spent.ru_utime + spent.ru_stime - before.ru_utime - before.ru_stime) / 60
    about = f"{n} test problems, {settings.reason_evaluate.samples} samples of each, "
    about += f"temperature {settings.reason_evaluate.sampling.temperature:g}. "
    about += f"Measured on {describe()} with {settings.runtime.kernels} kernels, in {minutes:.0f} minutes of CPU time."
    return [part.note, about, "", *lines]


def run(part: Part, folder: Path, seed: int) -> Path:
    """A copy of the project in which the models of a part are trained and evaluated."""
    runs.copy_project(ROOT, folder)
    changes = [*(profiles.read(ROOT / "configs" / part.profile) if part.profile else []), part.changes]
    profiles.apply([*changes, {"seed": seed, "tracking": {"enabled": False}}], AllParams, folder / "params.yaml")
    dvc(folder, "config", "--local", "core.no_scm", "true")
    dvc(folder, "repro", "-q", *(f"reason_evaluate@{name}" for name in part.models))
    return folder


def dvc(project: Path, *words: str) -> None:
    """Run DVC in `project`."""
    subprocess.run([sys.executable, "-m", "dvc", *words], cwd=project, check=True, env=runs.with_python())


def write(path: Path, title: str, lines: list[str]) -> None:
    """Write a section of the page; the others stay as they are, in the order of PARTS."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    _, *sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    known = {section.partition("\n")[0].removeprefix("## "): section.strip() for section in sections}
    known[title] = "\n".join([f"## {title}", "", *lines]).strip()
    files.write_text(
        path, "\n\n".join([HEAD.strip(), *(known[p.title] for p in PARTS.values() if p.title in known)]) + "\n"
    )


def comparison(part: Part, project: Path) -> list[str]:
    """The accuracies of the models, and the differences of the pairs on the same problems."""
    answers = {name: files.read_json(project / ANSWERS / name / "answers.json") for name in part.models}
    found = {name: by_measure(rows) for name, rows in answers.items()}
    lines = ["| model | greedy | steps forced | sampled |", "| --- | --- | --- | --- |"]
    for name, title in part.models.items():
        _, *values = row(name, found[name])
        cells = [f"{m:.3f} [{low:.3f}, {high:.3f}]" for m, low, high in zip(*[iter(values)] * 3, strict=True)]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [
        "",
        "| points | greedy | steps forced | sampled | only the first / only the second right, greedy | McNemar |",
    ]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for first, second in part.pairs:
        told = difference(first, found[first], second, found[second])
        name = f"{second}_over_{first}"
        cells = [
            f"{100 * told[f'{name}_{each}']:+.1f} [{100 * told[f'{name}_{each}_ci95_low']:+.1f}, "
            f"{100 * told[f'{name}_{each}_ci95_high']:+.1f}]"
            for each in MEASURES
        ]
        lost, won = (told[f"{name}_accuracy_only_{each}"] for each in (first, second))
        p = told[f"{name}_accuracy_mcnemar_p"]
        title = f"{part.models[second]} after {part.models[first]}"
        lines.append(f"| {title} | {' | '.join(cells)} | {lost} / {won} | p = {p:.1e} |")
    return [*lines, ""]


def scaling(part: Part, project: Path) -> list[str]:
    """The rows of scaling.csv of each model: tokens are those of all responses to a problem, in the mean."""
    lines = [
        "| response begins | method | responses | tokens | right | accuracy |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for name in part.models:
        with (project / f"reports/reason_evaluate/{name}/scaling.csv").open(newline="", encoding="utf-8") as file:
            for each in csv.DictReader(file):
                accuracy, low, high = (float(each[f"accuracy{end}"]) for end in ("", "_ci95_low", "_ci95_high"))
                right = f"{accuracy * int(each['problems']):.1f} of {each['problems']}"
                cells = (each["opening"], each["method"], each["samples"], f"{float(each['tokens']):.0f}", right)
                lines.append(f"| {' | '.join(cells)} | {accuracy:.3f} [{low:.3f}, {high:.3f}] |")
    return [*lines, ""]


REWARDED = {"base": "base", "control": "more solutions", "rl": "rewards"}
ALL = (("base", "rl"), ("control", "rl"), ("base", "control"))
ONE_THREAD = {"runtime": {"threads": 1}}
SOFT = {"gold": 200, "traces": 2000, "targets": "soft", "temperature": 1.0, "filter": "verified"}
SOFT |= {"max_new_tokens": 12, "updates": 400}
PARTS = {
    "rewards": Part(
        "Rewards",
        "The control makes as many updates as the training with rewards, on the solutions of the base.",
        REWARDED,
        comparison,
        ALL,
    ),
    "addition": Part(
        "Rewards for sums in columns",
        "The harder family and 1,047,024 parameters (`llm use reasoning`), from a base that is taught for 4 epochs.",
        REWARDED,
        comparison,
        ALL,
        (1,),
        "reasoning.yaml",
        ONE_THREAD
        | {
            "reason_problems": {"test": 200, "validation": 100},
            "reason_sft": {"epochs": 4},
            "reason_control": {"updates": 80},
            "reason_rl": {"steps": 80, "eval_every": 20, "save_every": 20},
            "reason_evaluate": {"samples": 4},
        },
    ),
    "soft-targets": Part(
        "Soft targets",
        "Students of the verified solutions of one teacher (`reason_distill`), and one of 200 gold solutions alone.",
        {
            "base": "teacher",
            "alone": "gold solutions alone",
            "student": "the teacher's text",
            "soft": "the teacher's distributions",
        },
        comparison,
        (("alone", "student"), ("alone", "soft"), ("student", "soft")),
        changes=ONE_THREAD
        | {
            "reason_distill": {"soft": SOFT},
            "reason_models": {"soft": "models/reason_soft"},
            "reason_evaluate": {"samples": 4},
        },
    ),
    "smollm2": Part(
        "Real weights",
        "Word problems of data/sample/reasoning.jsonl for SmolLM2-135M-Instruct with 4-bit weights, computed in fp32.",
        {"smollm2": "SmolLM2"},
        scaling,
        seeds=(123,),
        profile="reasoning-smollm2.yaml",
        changes=ONE_THREAD,
    ),
}


if __name__ == "__main__":
    main()
