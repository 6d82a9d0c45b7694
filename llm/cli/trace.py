"""The console command `trace`."""

from __future__ import annotations

import argparse
import sys

from llm.cli.program import dvc, open_repo, program
from llm.common import files


def trace_artifact(arguments: argparse.Namespace) -> None:
    """Print where an artifact came from, what was made of it, and the command that brings it back."""
    from llm.compare import lineage, terminal, trace_view
    from llm.compare.restore import Programs

    root = files.project_root()
    with open_repo(root) as repo:
        found = lineage.trace(arguments.what, root, repo, Programs(program(), dvc(), sys.executable))
    trace_view.show(found, arguments.all, terminal.console())
