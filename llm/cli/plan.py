"""The console command `plan`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm.cli.program import open_repo
from llm.common import dvc_lock, files, params
from llm.common.errors import USAGE, UserError, nearest, raise_all
from llm.runtime import kernels
from llm.tracking import record

if TYPE_CHECKING:
    from llm.plan.estimates import Expected


def plan_run(arguments: argparse.Namespace) -> None:
    """Print what `llm repro` would run, why and for how long; or, with --ranks, a training on several GPUs on paper."""
    if arguments.ranks:
        plan_on_paper(arguments)
        return
    kernels.pin()
    root = files.project_root()
    from llm.cli.repro import chapters
    from llm.compare import terminal
    from llm.plan import view

    params.load()  # DVC would name neither the file nor the line
    dvc_lock.read()
    found, number = expected(root, arguments.targets or chapters())
    if arguments.brief:
        print(f"plan: {view.summary(found, number)}")
    else:
        view.show(found, number, terminal.console())


def plan_on_paper(arguments: argparse.Namespace) -> None:
    """Print memory, messages, time and cost of models on several GPUs."""
    from llm.compare import terminal
    from llm.plan import scale, scale_view
    from llm.plan.gpus import GPUS

    names = arguments.model or scale.MODELS
    problems = [_unknown("--model", name, scale.MODELS) for name in names if name not in scale.MODELS]
    problems += [_unknown("--gpu", arguments.gpu, list(GPUS))] * (arguments.gpu not in GPUS)
    raise_all(problems)
    given = scale.Assumptions(
        arguments.context,
        arguments.batch,
        arguments.efficiency,
        arguments.network * 1e9,
        arguments.price,
        arguments.tokens,
    )
    scale_view.show(names, arguments.ranks, GPUS[arguments.gpu], given, terminal.console())


def _unknown(option: str, name: str, known: Sequence[str]) -> UserError:
    what = f"{option}: {name!r} is not one of {', '.join(known)}"
    return UserError("command line", what, nearest(name, known, "name one of these"), USAGE)


def expected(root: Path, targets: Sequence[str]) -> tuple[list[Expected], int]:
    """The stages that would run with their estimates, written down for the stages; and the number of all stages."""
    from llm.plan.stages import planned

    with open_repo(root) as repo:
        stages, number = planned(repo, targets)
    found: list[Expected] = []
    if stages:
        from llm.plan.estimates import Estimator  # these import torch, which takes seconds
        from stages.schema import AllParams

        found = Estimator(root, params.read_all(AllParams)).expect(stages)
    record.expect(root, {one.planned.name: one.estimate for one in found if not one.planned.cached})
    return found, number


def announce(targets: Sequence[str]) -> None:
    """Print the plan as one line before `llm repro` starts; nothing if there is none: DVC or `check` says why.

    Raises SystemExit for a circle of stages, of which DVC does not say what to do.
    It runs in a process of its own, so that torch's memory is free again before the stages start.
    """
    from llm.plan.stages import CIRCLE

    words = [sys.executable, "-m", "llm", "plan", "--brief", *targets]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        print(done.stdout, end="", flush=True)
    elif CIRCLE in done.stderr:
        print(done.stderr, end="", file=sys.stderr)
        sys.exit(done.returncode)
