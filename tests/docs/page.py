"""The commands of a page of docs/, as printed, in a small copy of the project.

A block of a page holds commands after `$ `. Lines that start with `> ` are typed into the program, the others are what
it prints. A block of YAML holds parameters that the page tells the reader to change.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from tests.ports import reserved_port
from tests.stages.project import ROOT, Project

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SERVERS = {"llm serve": 8000, "llm ui": 5000}  # run in a second terminal, and their ports
MODULES = {"python": "", "llm": "-m llm", "dvc": "-m dvc", "pip": "-m pip"}
TINY: dict[str, Any] = {
    "tracking": {"enabled": False},
    "runtime": {"threads": 1, "kernels": "native"},
    "tokenizer": {"vocab_size": 300},
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 32},
    "pretrain": {"short_windows": None, "epochs": 1, "stride": 192, "batch_size": 64, "warmup_steps": 1},
    "finetune_spam": {"epochs": 1, "warmup_steps": 1, "eval_batches": 1},
    "finetune_instruct": {"epochs": 1, "warmup_steps": 1, "eval_batches": 1},
}


@dataclass(frozen=True)
class Command:
    line: str
    typed: str = ""  # on standard input: the lines that the page shows after `> `
    shown: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(shlex.split(self.line))


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def read(text: str) -> tuple[dict[str, Any], list[Command]]:
    """The parameters and the commands of a page, or of a part of one."""
    values: dict[str, Any] = {}
    commands = []
    for kind, body in BLOCK.findall(text):
        if kind == "yaml":
            values = yaml.safe_load(body)
            continue
        for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
            first, *rest = part.splitlines()
            typed = "".join(line[2:] + "\n" for line in rest if line.startswith("> "))
            shown = tuple(line for line in rest if line and line != "..." and not line.startswith("> "))
            commands.append(Command(first.partition("  #")[0].rstrip(), typed, shown))
    return values, commands


@dataclass
class Terminal:
    """A shell in the project's folder with its environment activated: `cd` and servers last until its end."""

    project: Project
    more: dict[str, str] = field(default_factory=dict)  # variables
    python: str | Path = sys.executable
    servers: list[subprocess.Popen[str]] = field(default_factory=list)
    ports: dict[int, int] = field(default_factory=dict)
    reserved: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.folder = self.project.folder
        self.programs = self.folder.parent / f"{self.folder.name}-bin"
        self.programs.mkdir(exist_ok=True)
        for name, options in MODULES.items():
            path = self.programs / name
            path.write_text(f'#!/bin/sh\nexec "{self.python}" {options} "$@"\n')
            path.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)
        self.reserved.close()

    def run(self, command: Command, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, or a server until it listens."""
        line = command.line
        for served, port in SERVERS.items():
            if line.startswith(served):
                self.ports[port] = self.reserved.enter_context(reserved_port())
                line += f" --port {self.ports[port]}"
        for printed, real in self.ports.items():
            line = line.replace(f"127.0.0.1:{printed}", f"127.0.0.1:{real}")
        if line.startswith(tuple(SERVERS)):
            return self._serve(line)
        last = self.programs / "folder"
        shell = ["bash", "-c", f"{line}\ncode=$?; pwd > {shlex.quote(str(last))}; exit $code"]
        given: dict[str, Any] = {"cwd": self.folder, "env": self._variables(), "input": command.typed}
        done = subprocess.run(shell, **given, check=False, capture_output=True, text=True)
        self.folder = Path(last.read_text().strip())
        assert not ok or done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
        return done

    def _serve(self, line: str) -> subprocess.CompletedProcess[str]:
        log = self.programs / f"log-{len(self.servers)}"
        with log.open("w") as out:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=self.folder,
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.servers.append(server)
        port, deadline = int(line.rsplit(maxsplit=1)[-1]), time.monotonic() + 120
        while not _listens(port):
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        return subprocess.CompletedProcess(line, 0, log.read_text(), "")

    def _variables(self) -> dict[str, str]:
        nobody = {
            f"GIT_{who}_{what}": value
            for who in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "a reader"), ("EMAIL", "reader@example.org"))
        }
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        left = {"MLFLOW_TRACKING_URI", "PYTHONPATH", "PYTHONSAFEPATH", "VIRTUAL_ENV"}
        known = {name: value for name, value in os.environ.items() if name not in left}
        return {**known, **nobody, "PATH": path, "DVC_NO_ANALYTICS": "1", "COLUMNS": "100", **self.more}


def committed(project: Project) -> Project:
    """The project as a git repository with one commit."""
    (project.folder / ".dvc/config.local").unlink()
    for name in (".gitignore", ".dvc/.gitignore"):
        shutil.copyfile(ROOT / name, project.folder / name)
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=project.folder, check=True, capture_output=True)
    return project


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
