"""Where the original files are given, a test that wants them may not be skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

def test_wants_the_files():
    pytest.skip("LLM_MIRROR is not set")

def test_wants_something_else():
    pytest.skip("no GPU here")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mirror", "code", "counts"), [(None, 0, "2 skipped"), ("/", 1, "1 failed, 1 skipped")])
def test_a_skip_for_want_of_the_mirror_fails_where_it_is_given(tmp_path, mirror, code, counts):
    (tmp_path / "test_skips.py").write_text(TESTS)
    environment = {name: value for name, value in os.environ.items() if name != "LLM_MIRROR"}
    environment |= {"LLM_MIRROR": mirror} if mirror else {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--rootdir", tmp_path, tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, counts in done.stdout.splitlines()[-1]) == (code, True), done.stdout + done.stderr
