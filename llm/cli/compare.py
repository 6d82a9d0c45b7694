"""Console commands that look at results of several states of the project: compare, experiments, trace."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from llm.cli.program import dvc, open_repo, program
from llm.common import dvc_exp, files
from llm.common.errors import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo


def compare_states(arguments: argparse.Namespace) -> None:
    """Print what differs between two states of the project; write it as a page with --html."""
    from llm.compare import comparison, snapshot, terminal

    root = files.project_root()
    sides = snapshot.resolve(arguments.first), snapshot.resolve(arguments.second)
    with _repo(root) or nullcontext() as repo:
        found = comparison.compare(*sides, repo)
    terminal.show(found, terminal.console())
    if arguments.html:
        from llm.compare import pages

        write_page(arguments.html, pages.comparison(found))


def list_experiments(arguments: argparse.Namespace) -> None:
    """Print the experiments with what they changed and their headline figures."""
    from llm.compare import experiments, terminal

    files.project_root()
    found = experiments.experiments(arguments.all)
    elsewhere = 0 if arguments.all else len(dvc_exp.bases()) - 1  # without HEAD
    terminal.show_experiments(found, terminal.console(), elsewhere)


def trace_artifact(arguments: argparse.Namespace) -> None:
    """Print where an artifact came from, what was made of it, and the command that brings it back."""
    from llm.compare import lineage, terminal, trace_view
    from llm.compare.restore import Programs

    root = files.project_root()
    with open_repo(root) as repo:
        found = lineage.trace(arguments.what, root, repo, Programs(program(), dvc(), sys.executable))
    trace_view.show(found, arguments.all, terminal.console())


def _repo(root: Path) -> Repo | None:
    """DVC's view of the project; None if DVC cannot open it."""
    with suppress(UserError):
        return open_repo(root)
    return None


def write_page(path: Path, page: str) -> None:
    """Write a page and say where it is."""
    files.write_text(path, page)
    print(f"\nwritten: {path}")
