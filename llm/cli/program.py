"""The name and the version of this program, what to type in the user's shell to run it or DVC, and DVC itself."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from llm.common.errors import USAGE, UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def program() -> str:
    """This program as the user started it: `llm` or `python -m llm`, with a folder if the shell needs one."""
    return _folder() + ("llm" if Path(sys.argv[0]).name == "llm" else "python -m llm")


def dvc() -> str:
    """DVC of this environment. Its own script holds an absolute path and breaks when the project is moved."""
    return f"{_folder()}python -m dvc"


def version() -> str:
    """The version in pyproject.toml, or that of the installed package if the file is missing."""
    if PYPROJECT.is_file():
        return str(tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["version"])
    try:
        return metadata.version("llm-from-scratch-pipeline")
    except metadata.PackageNotFoundError:  # a copy of the code, as `dvc exp run --queue` makes
        return "unknown"


def open_repo(root: Path) -> Repo:
    """DVC's view of the project. Raises UserError if DVC cannot open it."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        return Repo(str(root))
    except DvcException as error:
        raise UserError(str(root), str(error), f"run `{program()} repair`", USAGE) from None


def _folder() -> str:
    """The folder of this interpreter, with a slash; empty if the shell finds it (an activated environment)."""
    folder = Path(sys.executable).parent
    found = shutil.which("python")
    if found and os.path.samefile(Path(found).parent, folder):
        return ""
    return f"{folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder}/"
