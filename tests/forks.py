"""Modules run as `python -m` would, in forks of one process that has loaded what is slow to load.

A fork starts in milliseconds, while importing PyTorch takes seconds. So the stages of a pipeline start at once, and a
test can kill a run at every single rename.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from llm.runtime.kernels import PINNED

ROOT = Path(__file__).parents[1]
RENAMES = ("replace",)
CHANGES = ("replace", "unlink", "rmdir")  # of what is in a folder
# Of other people: a fork then loads our own code from where it runs, as a copy of the project must.
PACKAGES = (
    *("torch", "torch.distributed.fsdp", "safetensors.torch", "tiktoken", "pandas"),
    *("ruamel.yaml", "requests", "rapidfuzz", "dvc.repo"),
)
OURS = (*PACKAGES, "llm.train.resume", "llm.generate.decoding", "llm.model.classifier", "torch._dynamo")

# A program that stands for `python`: what it is told to run as a module, a fork runs with its files and variables.
PYTHON = """#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] != ["-m"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
job = {{"argv": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)}}
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [json.dumps(job).encode() + b"\\n"], [0, 1, 2])
    code = int(server.makefile().readline() or 1)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit code, negative for a signal, and what it said."""

    code: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Forks:
    """A process that has loaded `modules`, with more `variables`, and runs others in forks of itself."""

    def __init__(self, modules: Sequence[str] = OURS, variables: Mapping[str, str] | None = None) -> None:
        spins = {"GOMP_SPINCOUNT": "3000"}  # as `stages` sets it: OpenMP reads it when torch is loaded
        self._modules, self._environment = modules, spins | os.environ | (variables or {})

    def __enter__(self) -> Forks:
        self._folder = tempfile.TemporaryDirectory(prefix="forks")
        self._address = f"{self._folder.name}/socket"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self._address)
            listening.listen()
            command = [sys.executable, "-m", "tests.forks", str(listening.fileno()), *self._modules]
            own = {"pass_fds": [listening.fileno()], "start_new_session": True}  # Ctrl-C is for the tests
            piped = {"stdin": subprocess.PIPE, "env": self._environment}
            self._server = subprocess.Popen(command, cwd=ROOT, **piped, **own)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()  # closes its stdin
        self._folder.cleanup()

    def python(self) -> Path:
        """A program `python` in a folder of its own, which runs modules in forks; other uses start the real one."""
        path = Path(self._folder.name) / "bin/python"
        if not path.exists():
            path.parent.mkdir()
            path.write_text(PYTHON.format(python=sys.executable, address=self._address))
            path.chmod(0o755)
        return path

    def run(
        self,
        folder: Path,
        module: str,
        *words: str,
        environment: Mapping[str, str] = os.environ,
        kill_at: int | None = None,
        calls: tuple[str, ...] = RENAMES,
        kill_after: float | None = None,
    ) -> Ended:
        """Run MODULE in `folder`; kill it before the `kill_at`-th of the `calls` of `os`, or after some seconds."""
        job = {"argv": [module, *words], "folder": str(folder), "environment": dict(environment)}
        job |= {"kill_at": kill_at, "calls": calls, "kill_after": kill_after}
        new = tempfile.TemporaryFile
        with socket.socket(socket.AF_UNIX) as server, new("w+") as stdin, new("w+") as out, new("w+") as err:
            server.connect(self._address)
            files = [stdin, out, err]
            socket.send_fds(server, [json.dumps(job).encode() + b"\n"], [file.fileno() for file in files])
            code = int(server.makefile().readline())
            out.seek(0)
            err.seek(0)
            return Ended(code, out.read(), err.read())


@cache
def warm(portable: bool = False) -> Path:
    """`python` of forks of one process, which lasts as long as this one, with PACKAGES loaded but no code of ours.

    `portable`: PyTorch is loaded with the variables that portable kernels need.
    """
    forks = Forks(PACKAGES, PINNED if portable else {})
    forks.__enter__()
    atexit.register(forks.__exit__)
    return forks.python()


def serve(listening: socket.socket, modules: Sequence[str]) -> None:
    """Run the job of each connection in a fork, until stdin is closed."""
    site = [path for path in sys.path if path not in _own_paths(str(ROOT), os.environ)]
    for module in modules:
        importlib.import_module(module)
    if not any(module.startswith("llm") for module in modules):  # or a copy would run with these
        for name in [name for name in sys.modules if name.split(".")[0] in ("llm", "stages", "tests")]:
            del sys.modules[name]
    gc.freeze()  # a collection in a fork would copy every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets who has ended
    while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
        connection = listening.accept()[0]
        if os.fork() == 0:
            listening.close()
            _serve_one(connection, site)
        connection.close()


def _own_paths(folder: str, environment: Mapping[str, str]) -> list[str]:
    """Where `python -m` looks for modules first."""
    return [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]


def _serve_one(connection: socket.socket, site: Sequence[str]) -> NoReturn:
    """Run one job in a fork, and say how it ended. It is killed where who asked for it is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, descriptors, _, _ = socket.recv_fds(connection, 2**16, 3)
    while not data.endswith(b"\n"):
        more = connection.recv(2**16)
        if not more:  # who asked was killed meanwhile
            os._exit(0)
        data += more
    job = json.loads(data)
    pid = os.fork()
    if pid == 0:
        connection.close()
        _child(job, descriptors, site)
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, connection], [], [], job.get("kill_after"))[0]:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):
        connection.sendall(f"{code}\n".encode())
    os._exit(0)


def _child(job: dict[str, Any], descriptors: Sequence[int], site: Sequence[str]) -> NoReturn:
    code: Any = 1
    try:
        os.chdir(job["folder"])
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(job["environment"])
        sys.path[:] = [*_own_paths(job["folder"], os.environ), *site]
        sys.argv = list(job["argv"])
        _kill_at(job.get("kill_at"), job.get("calls", ()))
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as leaving:
        code = leaving.code
        if not isinstance(code, int):
            print(code or "", end="\n" if code else "", file=sys.stderr)
            code = int(code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _kill_at(count: int | None, calls: Sequence[str]) -> None:
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

    for name in calls if count else ():
        setattr(os, name, counted(getattr(os, name)))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
