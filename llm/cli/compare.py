"""Console commands that look at results of several states of the project: compare, experiments."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm.common import files


def compare_states(arguments: argparse.Namespace) -> None:
    """Print what differs between two states of the project; write it as a page with --html."""
    from llm.compare import comparison, snapshot, terminal

    root = files.project_root()
    sides = snapshot.resolve(arguments.first), snapshot.resolve(arguments.second)
    found = comparison.compare(*sides, _run_cache(root))
    terminal.show(found, terminal.console())
    if arguments.html:
        from llm.compare import pages

        write_page(arguments.html, pages.comparison(found))


def list_experiments(arguments: argparse.Namespace) -> None:
    """Print the experiments with what they changed and their headline figures."""
    from llm.compare import experiments, terminal

    files.project_root()
    terminal.show_experiments(experiments.experiments(arguments.all), terminal.console())


def _run_cache(root: Path) -> Path | None:
    """The folder of DVC's cache of runs; None if DVC cannot open the project."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return Path(repo.cache.legacy.path, "runs")
    except DvcException:
        return None


def write_page(path: Path, page: str) -> None:
    """Write a page and say where it is."""
    files.write_text(path, page)
    print(f"\nwritten: {path}")
