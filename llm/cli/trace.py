"""The console command `trace`."""

from __future__ import annotations

import argparse
import sys

from llm.cli.program import dvc, program
from llm.common import files
from llm.common.errors import USAGE, UserError


def trace_artifact(arguments: argparse.Namespace) -> None:
    """Print where an artifact came from, what was made of it, and the command that brings it back."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    from llm.compare import lineage, terminal, trace_view
    from llm.compare.restore import Programs

    root = files.project_root()
    try:
        repo = Repo(str(root))
    except DvcException as error:
        raise UserError(str(root), str(error), f"run `{program()} repair`", USAGE) from None
    with repo:
        found = lineage.trace(arguments.what, root, repo, Programs(program(), dvc(), sys.executable))
    trace_view.show(found, arguments.all, terminal.console())
