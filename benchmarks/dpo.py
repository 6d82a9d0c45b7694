"""Measure preference optimisation on the sample with several seeds: `python -m benchmarks.dpo`.

Each seed draws the wordings and which of them are held out, and trains both models, with the other parameters of
params.yaml and 1 thread, in a copy of the project. It starts from models/gpt2-sample and data/instructions (run
`dvc repro` before).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from llm.book import runs
from llm.common import files, profiles
from stages.schema import AllParams

ROOT = Path(__file__).parents[1]
NEEDED = ("models/gpt2-sample", "data/instructions")
STAGES = ("preferences", "preference_base", "finetune_dpo")
SHARES = {
    "accuracy, seen wordings": "test_accuracy",
    "unseen wordings": "unseen_accuracy",
    "preferred style before": "chosen_style_before",
    "after": "chosen_style_after",
    "right before": "right_before",
    "after, right": "right_after",
}
MEANS = {"chosen reward": "test_chosen_reward", "rejected reward": "test_rejected_reward"}


def main() -> None:
    """Print a row for each seed, and one of medians."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dpo", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="other parameters")
    parser.add_argument("--answers", type=int, default=0, help="print so many answers of each seed")
    arguments = parser.parse_args()
    names = ["seed", *SHARES, *MEANS, "seconds"]
    print(f"| {' | '.join(names)} |\n|{' ---: |' * len(names)}", flush=True)
    found = []
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as parent:
            project = Path(parent) / "project"
            found.append(measure(project, seed, arguments.set))
            print(row(str(seed), found[-1], intervals=True), flush=True)
            for each in files.read_json(project / "reports/finetune_dpo/answers.json")[: arguments.answers]:
                print(f"  {each['instruction']} {each['input']}: {each['before']} -> {each['after']}", flush=True)
    keys = [*SHARES.values(), *MEANS.values(), "seconds"]
    print(row("median", {key: statistics.median(each[key] for each in found) for key in keys}, intervals=False))


def measure(project: Path, seed: int, words: list[str]) -> dict[str, Any]:
    """The metrics of a training in a copy of the project, and the seconds of the two trainings."""
    runs.copy_project(ROOT, project)
    for folder in NEEDED:
        shutil.copytree(ROOT / folder, project / folder)
    changes: list[dict[str, Any]] = [{"seed": seed, "runtime": {"threads": 1}, "tracking": {"enabled": False}}]
    for word in words:
        key, _, text = word.partition("=")
        value: Any = yaml.safe_load(text)
        for name in reversed(key.split(".")):
            value = {name: value}
        changes.append(value)
    profiles.apply(changes, AllParams, project / "params.yaml")
    start = time.monotonic()
    for name in STAGES:
        done = subprocess.run(
            [sys.executable, "-m", f"stages.{name}"], cwd=project, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(done.stderr)
    metrics = files.read_json(project / "reports/finetune_dpo/metrics.json")
    return dict(metrics) | {"seconds": time.monotonic() - start}


def row(name: str, found: dict[str, Any], intervals: bool) -> str:
    """A row of the table."""
    cells = [name]
    for key in SHARES.values():
        low, high = (found.get(f"{key}_ci95_{end}") for end in ("low", "high"))
        cells.append(f"{found[key]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if intervals else ""))
    cells += [f"{found[key]:+.2f}" for key in MEANS.values()]
    return "| " + " | ".join([*cells, f"{found['seconds']:.0f}"]) + " |"


if __name__ == "__main__":
    main()
