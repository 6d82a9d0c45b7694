"""Ranks on several machines, played by two launchers on this one, and how many threads each rank has."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from llm.common import files
from llm.common.cores import cores
from llm.common.errors import RUNNING, SERVICE, USAGE, UserError, error_contract
from llm.runtime.device import RuntimeConfig
from stages import launch
from stages.launch import LaunchConfig
from tests.stages.project import ROOT, Project
from tests.stages.test_ranks import ended, outputs, started, tokenized, unbroken

__all__ = ["tokenized", "unbroken"]  # fixtures
TWO = RuntimeConfig("fp32", "cpu", 1, keep_pages=False, fused_loss=False, ranks=2)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def on_two_machines(project: Project, node: int) -> subprocess.Popen[str]:
    return project.start("stages.pretrain", env={"NODE_RANK": str(node), "GLOO_SOCKET_IFNAME": "lo"})


@pytest.fixture
def divided(tokenized: Project, tmp_path: Path) -> Project:
    made = tokenized.copy(tmp_path / "project")
    made.set(launch={"nodes": 2, "endpoint": f"127.0.0.1:{free_port()}", "timeout_seconds": 60})
    return made


@pytest.mark.long
def test_two_launchers_form_one_group(divided: Project, unbroken: dict[str, bytes]) -> None:
    launchers = [on_two_machines(divided, node) for node in (1, 0)]  # the order does not matter
    said = [one.communicate(timeout=500)[1] for one in launchers]
    assert [one.returncode for one in launchers] == [0, 0], said
    assert outputs(divided) == unbroken
    assert "step" not in said[0]  # the second machine shows nothing
    assert (divided.folder / ".work/pretrain/ranks-1").is_dir()


@pytest.mark.long
def test_a_machine_that_does_not_come_is_named(divided: Project) -> None:
    divided.set(launch={"timeout_seconds": 5})
    first = on_two_machines(divided, 0)
    _, said = first.communicate(timeout=200)
    assert first.returncode == SERVICE
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert "2 machines did not meet at 127.0.0.1:" in line


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        code = f"from tests.stages import test_nodes; test_nodes.meet({str(tmp_path)!r}, {endpoint!r})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    what = f"the port of {endpoint} cannot be used on this machine: Address already in use"
    assert done.stderr == f"error: params.yaml: launch.endpoint: {what} | fix: give another port\n"
    assert done.returncode == RUNNING


@pytest.mark.parametrize("node", [0, 1])
def test_a_host_that_is_not_known_is_named(tmp_path: Path, node: int) -> None:
    for host in ("no-such-host.invalid", "a..b"):
        (line,) = said(tmp_path, f"{host}:29500", node)
        assert line.startswith(f"error: params.yaml: launch.endpoint: the host '{host}' is not known on this machine: ")


def test_a_first_machine_that_is_another_one_is_named(tmp_path: Path) -> None:
    """An address that is kept for documentation is of no machine."""
    (line,) = said(tmp_path, f"192.0.2.1:{free_port()}", 0, USAGE)
    assert "launch.endpoint: this machine, the first one, cannot reach itself at 192.0.2.1:" in line


def test_a_first_machine_that_does_not_come_is_one_line(tmp_path: Path) -> None:
    endpoint = f"127.0.0.1:{free_port()}"
    (line,) = said(tmp_path, endpoint, 1)
    assert f"launch.endpoint: 2 machines did not meet at {endpoint}: Connection refused | fix: " in line


@pytest.mark.parametrize("reply", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["silent", "another protocol"])
def test_another_program_at_the_endpoint_is_named(tmp_path: Path, reply: bytes | None) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        endpoint, open_ = f"127.0.0.1:{other.getsockname()[1]}", []

        def answer() -> None:
            with suppress(OSError):  # the listener was closed
                while True:
                    open_.append(other.accept()[0])
                    if reply:
                        open_[-1].sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        (line,) = said(tmp_path, endpoint, 1)
        other.shutdown(socket.SHUT_RDWR)
    what = f"another program than the first machine's stage listens at {endpoint}"
    assert line == f"error: params.yaml: launch.endpoint: {what} | fix: give a port that is free on the first machine"


def said(folder: Path, endpoint: str, node: int, code: int = SERVICE) -> list[str]:
    """What one of two machines prints on stderr, which fails because it cannot reach the other."""
    run = f"from tests.stages import test_nodes; test_nodes.meet({str(folder)!r}, {endpoint!r}, {node}, 3)"
    done = subprocess.run(
        [sys.executable, "-c", run], capture_output=True, text=True, cwd=ROOT, check=False, timeout=120
    )
    assert done.returncode == code
    return done.stderr.splitlines()


def meet(folder: str, endpoint: str, node: int = 0, seconds: float = 20) -> None:
    """Start one of two machines; for the tests above."""
    os.environ["NODE_RANK"] = str(node)
    with error_contract():
        launch.start(TWO, LaunchConfig(seconds, 2, endpoint), ["tests.stages.test_nodes"], Path(folder, "ranks"))


@pytest.mark.long
def test_a_machine_that_fails_ends_the_other(divided: Project) -> None:
    one = on_two_machines(divided, 1)
    stage, ranks = started(divided, env={"NODE_RANK": "0", "GLOO_SOCKET_IFNAME": "lo"}, number=1)
    one.kill()
    one.communicate()
    code, line = ended(stage, ranks)
    assert code == SERVICE
    assert "rank 0 of 2: lost the connection to a rank of another machine, nothing was published" in line


def test_a_second_launcher_leaves_the_first_alone(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    folder.mkdir()
    (folder / "0.json").write_text("of the first")
    with files.lock(tmp_path / "ranks.lock"), pytest.raises(UserError, match="held by pid") as caught:
        launch.start(TWO, LaunchConfig(1), ["stages.pretrain"], folder)
    assert caught.value.code == RUNNING
    assert (folder / "0.json").read_text() == "of the first"


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert [key for key, *_ in LaunchConfig(1, nodes=2).problems()] == ["endpoint"]
    for wrong in ("host", "host:0", "host:99999"):
        assert [key for key, *_ in LaunchConfig(1, nodes=2, endpoint=wrong).problems()] == ["endpoint"]
    several = LaunchConfig(1, nodes=2, endpoint="host:29500")
    assert not list(several.problems())
    assert not list(several.problems_with(4))
    assert [key for key, *_ in several.problems_with(3)] == ["launch.nodes"]
    for number in ("2", "-1", "one", ""):
        monkeypatch.setenv("NODE_RANK", number)
        with pytest.raises(UserError, match=f"NODE_RANK: '{number}' is not from 0 to 1") as caught:
            launch.start(TWO, several, ["stages.pretrain"], tmp_path / "ranks")
        assert caught.value.code == USAGE


@pytest.mark.long
def test_each_rank_has_the_threads_of_the_runtime(tmp_path: Path) -> None:
    """Also those that OpenMP really starts: the stage counts them after a large product."""
    for threads in (1, 2):
        code = f"from tests.stages import test_nodes; test_nodes.start({str(tmp_path)!r}, {threads})"
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
        )
        assert done.returncode == 0, done.stderr
        for rank in range(2):
            found = json.loads((tmp_path / f"{rank}.json").read_text())
            assert found == {"threads": threads, "started": threads - 1}
        crowded = f"2 ranks x {threads} threads on {cores()} cores" in done.stderr
        assert crowded == (2 * threads > cores())


def start(folder: str, threads: int) -> None:
    """Start this module on two ranks; for the test above."""
    os.environ |= {"OUT": folder, "THREADS": str(threads)}
    launch.start(replace(TWO, threads=threads), LaunchConfig(60), ["tests.stages.test_nodes"], Path(folder, "ranks"))


def main() -> None:
    import psutil
    import torch

    from llm.runtime.device import set_up_device

    set_up_device(replace(TWO, threads=int(os.environ["THREADS"])))
    before = psutil.Process().num_threads()
    torch.randn(1000, 1000) @ torch.randn(1000, 1000)
    found = {"threads": torch.get_num_threads(), "started": psutil.Process().num_threads() - before}
    Path(os.environ["OUT"], f"{os.environ['RANK']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
