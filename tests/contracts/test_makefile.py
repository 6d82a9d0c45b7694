"""`make install` leaves no module to be compiled in every process."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("variable", "compiles"), [(None, False), ("", False), ("1", True)])
def test_pip_compiles_where_python_may_not_write_what_it_compiled(variable: str | None, compiles: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if variable is not None:
        environment["PYTHONDONTWRITEBYTECODE"] = variable
    command = ["make", "--dry-run", "--always-make", ".venv/.installed"]
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in printed.splitlines() if " -m pip install " in line]
    assert ("--no-compile" not in line) is compiles
