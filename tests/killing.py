"""Modules run as `python -m` would, in forks of one process that has torch loaded, and killed where a test says.

A fork starts in milliseconds, so a test can kill a run at every single rename.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RENAMES = ("replace",)
CHANGES = ("replace", "unlink", "rmdir")  # of what is in a folder


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, negative for a signal, and what it said on stderr."""

    code: int
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Forks:
    """A process with torch loaded, which runs one module at a time in a fork."""

    def __enter__(self) -> Forks:
        piped = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "tests.killing"]
        self._server: subprocess.Popen[str] = subprocess.Popen(command, cwd=ROOT, **piped)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait()

    def run(
        self,
        folder: Path,
        module: str,
        *words: str,
        kill_at: int | None = None,
        calls: tuple[str, ...] = RENAMES,
        kill_after: float | None = None,
    ) -> Ended:
        """Run MODULE in `folder`; kill it before the `kill_at`-th of the `calls` of `os`, or after some seconds."""
        job = {"folder": str(folder), "argv": [module, *words], "kill_at": kill_at, "calls": calls, "after": kill_after}
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return Ended(int(self._server.stdout.readline()), (folder / "stderr").read_text(encoding="utf-8"))


def serve() -> None:
    """Read jobs from stdin, one line each; print how each ended."""
    for module in (
        "llm.train.resume",
        "llm.generate.decoding",
        "llm.model.classifier",
        "torch._dynamo",
    ):  # all that is slow to load
        importlib.import_module(module)
    gc.freeze()  # a collection in a fork would copy every page
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(job)
        timer = threading.Timer(job["after"] or 0, os.kill, [pid, signal.SIGKILL])
        if job["after"] is not None:
            timer.start()
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # leaves the pid taken, so the timer kills nobody else
        timer.cancel()
        if timer.is_alive():
            timer.join()
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _child(job: dict[str, Any]) -> None:
    code: Any = 1
    try:
        os.chdir(job["folder"])
        for name, descriptor in [("stdout", 1), ("stderr", 2)]:
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        sys.argv = list(job["argv"])
        _kill_at(job["kill_at"], job["calls"])
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        code = leaving.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill_at(count: int | None, calls: list[str]) -> None:
    """Replace these functions of `os` by ones that kill this process before the `count`-th call of any of them."""
    seen, lock = 0, threading.Lock()

    def counted(original: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal seen
            with lock:  # some files are written by several threads
                seen += 1
                if seen == count:
                    os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **options)

        return call

    for name in calls:
        setattr(os, name, counted(getattr(os, name)))


if __name__ == "__main__":
    serve()
