"""A module in a fork behaves as under `python -m`."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.forks import Forks

TELLS = """
import os, signal, sys, time
from pathlib import Path
print(Path.cwd().name, sys.argv[1:], os.environ.get("TOLD"), sys.path[0] == os.getcwd(), flush=True)
what = sys.argv[1]
if what == "read":
    print(sys.stdin.read())
elif what == "exit":
    sys.exit(7)
elif what == "say":
    sys.exit("a message")
elif what == "raise":
    raise ValueError("a fault")
elif what == "end":
    os.kill(os.getpid(), signal.SIGTERM)
elif what == "last":
    Path("pid.new").write_text(str(os.getpid()))
    os.replace("pid.new", "pid")
    time.sleep(300)
"""
CODES = {"read": 0, "exit": 7, "say": 1, "raise": 1, "end": -signal.SIGTERM}


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks(["json"]) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tells.py").write_text(TELLS)
    return tmp_path


def run(python: Path | str, folder: Path, *words: str) -> tuple[int, str, str]:
    given: dict[str, Any] = {"env": os.environ | {"TOLD": "yes"}, "cwd": folder, "input": "typed"}
    done = subprocess.run([python, *words], check=False, capture_output=True, text=True, **given)
    return done.returncode, done.stdout, done.stderr.strip().rpartition("\n")[2]


@pytest.mark.parametrize("what", CODES)
def test_code_output_and_surroundings_are_those_of_the_interpreter(forks: Forks, folder: Path, what: str) -> None:
    words = ("-m", "tells", what, "--more")
    told = run(forks.python(), folder, *words)
    assert told == run(sys.executable, folder, *words)
    assert told[0] == CODES[what]
    assert told[1].startswith(f"{folder.name} ['{what}', '--more'] yes True\n")


def test_modules_are_loaded_with_the_variables(folder: Path) -> None:
    (folder / "loaded.py").write_text("import os\nVARIABLE = os.environ.get('LOADED')\n")
    (folder / "shows.py").write_text("import loaded\nprint(loaded.VARIABLE)\n")
    with Forks(["loaded"], {"LOADED": "with it", "PYTHONPATH": str(folder)}) as forks:
        assert forks.run(folder, "shows").out == "with it\n"


def test_other_words_start_the_interpreter(forks: Forks, folder: Path) -> None:
    assert run(forks.python(), folder, "-c", "print(input())") == (0, "typed\n", "")


def test_a_fork_does_not_outlive_who_asked_for_it(forks: Forks, folder: Path) -> None:
    with subprocess.Popen([forks.python(), "-m", "tells", "last"], cwd=folder, stdout=subprocess.DEVNULL) as asking:
        end = time.monotonic() + 60
        while not (folder / "pid").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        asked = psutil.Process(int((folder / "pid").read_text()))
        asking.kill()
    assert psutil.wait_procs([asked], timeout=60)[1] == []


def test_a_half_told_job_ends(forks: Forks) -> None:
    server = psutil.Process(forks._server.pid)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(forks._address)
        end = time.monotonic() + 60
        while not (serving := server.children()):
            assert time.monotonic() < end
            time.sleep(0.01)
        asking.sendall(b"{")
    assert psutil.wait_procs(serving, timeout=60)[1] == []


def test_a_fork_may_be_killed_at_a_call_and_after_some_time(forks: Forks, folder: Path) -> None:
    at_rename = forks.run(folder, "tells", "last", kill_at=1)
    assert at_rename.killed
    assert not (folder / "pid").exists()
    later = forks.run(folder, "tells", "last", kill_at=2, kill_after=2)
    assert later.killed
    assert (folder / "pid").exists()
    assert not forks.run(folder, "tells", "exit", kill_at=1, kill_after=60).killed


def test_forks_end_with_their_block(folder: Path) -> None:
    with Forks(["json"]) as running:
        assert running.run(folder, "tells", "exit").code == 7
        server = psutil.Process(running._server.pid)
    assert not server.is_running()
