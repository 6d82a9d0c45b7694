"""The chapters of the sample with `use auto` as a benchmark: a full run, and a run with nothing to do.

The run with nothing to do is compared with a pipeline of empty stages with as many dependencies, to see DVC's share.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from llm.book.runs import copy_project, with_python
from llm.cli.repro import chapters
from llm.common import files, params

ROOT = Path(__file__).parents[1]
PAIRS = 5


def ours() -> dict[str, float]:
    """Seconds of the full run and of its computing, and of a run with nothing to do, also relative to empty stages."""
    with tempfile.TemporaryDirectory() as name:
        project, empty = Path(name) / "project", Path(name) / "empty"
        copy_project(ROOT, project)
        for folder in (project, empty):
            files.write_text(folder / ".dvc/config.local", "[core]\n    no_scm = true\n")
        run(project, "llm", "use", "auto")
        names = chapters()
        seconds = run(project, "dvc", "repro", *names)
        lock = params.load(project / "dvc.lock")["stages"]
        write_empty(empty, [len(stage.get("deps", [])) for name, stage in lock.items() if name.split("@")[0] in names])
        run(empty, "dvc", "repro")
        pairs = [(run(project, "dvc", "repro", *names), run(empty, "dvc", "repro")) for _ in range(PAIRS)]
        return {
            "rate": 1 / seconds,
            "seconds": seconds,
            "compute": computed(project),
            "no_op": statistics.median(ours for ours, _ in pairs),
            "no_op_ratio": statistics.median(ours / theirs for ours, theirs in pairs),
        }


def run(folder: Path, *words: str) -> float:
    """Run `python -m WORDS` in `folder` and return its seconds."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", *words]
    subprocess.run(command, cwd=folder, env=with_python(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def write_empty(folder: Path, deps: Sequence[int]) -> None:
    """Write a chain of stages that do nothing, one for each number of dependencies in `deps`."""
    stages = {}
    for number, count in enumerate(deps):
        names = [f"in/{at}" for at in range(count - 1)] + [f"out/{number - 1}" if number else "in/first"]
        for name in names:
            if name.startswith("in/"):
                files.write_text(folder / name, name)
        stages[f"stage{number}"] = {"cmd": f"echo > out/{number}", "deps": names, "outs": [f"out/{number}"]}
    (folder / "out").mkdir()
    files.write_text(folder / "dvc.yaml", yaml.safe_dump({"stages": stages}))
    files.write_text(folder / ".dvc/config", "")


def computed(project: Path) -> float:
    """Seconds that the stages spent computing, from the metrics in MLflow."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return float(sum(run.data.metrics.get("seconds/compute", 0.0) for run in client.search_runs(experiments)))
