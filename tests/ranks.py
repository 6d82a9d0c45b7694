"""The ranks of one training as processes of this machine: forks that have PyTorch loaded."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from llm.common.ranks import TIMEOUT
from tests.forks import warm
from tests.ports import reserved_port

ROOT = Path(__file__).parents[1]


def run_ranks(words: Sequence[str], ranks: int, seconds: float = 500) -> None:
    """Run `python -m WORDS` as so many ranks that meet on the loopback interface. None is left when this returns.

    Fails with what they printed, if one of them does, or if one is still there after so many seconds.
    """
    with reserved_port() as port, tempfile.TemporaryFile("w+") as said:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo", TIMEOUT: "120"}
        processes = []
        try:
            for rank in range(ranks):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
                environment = os.environ | shared | own
                command = [warm(), "-m", *words]
                processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=said))
            end = time.monotonic() + seconds
            while any(process.poll() is None for process in processes) and time.monotonic() < end:
                if any(process.returncode for process in processes):
                    break
                time.sleep(0.05)
        finally:
            codes = [process.poll() for process in processes]
            for process in processes:
                process.kill()
                process.wait()
        said.seek(0)
        assert codes == [0] * ranks, said.read()
