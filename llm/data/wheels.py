"""Download a wheel from the package index with pip, which knows the user's index, proxy and certificates."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from llm.common.http import Failure

SECONDS = 1800.0


def download_wheel(requirement: str, part: Path) -> None:
    """Write the wheel of `package==version` to `part`. pip resolves no dependencies and runs no code of the package.

    Raises Failure with pip's last error line if pip cannot download it.
    """
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".wheel-") as folder:
        options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Failure(f"pip download: {error}") from None
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            errors = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
            raise Failure(f"pip download: {errors[-1].removeprefix('ERROR: ')}")
        wheels[0].replace(part)
