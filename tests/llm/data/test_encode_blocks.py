"""Who encodes decides no byte: threads, one or several, and a real local Ray cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from llm.common import params
from llm.common.errors import RESOURCES, SERVICE, UserError
from llm.data import encode_blocks
from llm.data.encode_blocks import Encode, ParallelConfig, in_order
from llm.data.tokenizer import Tokenizer
from tests.stages.project import Project

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed (the extra `ray`)")
RAY = {"tokenize": {"parallel": {"engine": "ray", "workers": 2}}}
BLOCKS = [[f"{number} foxes", "naïve 東京 " * number, ""] for number in range(40)]


@pytest.fixture
def encode(vocabulary: Path) -> Encode:
    return Encode(Tokenizer.load(vocabulary), np.uint16)


def ids_of(encode: Encode, blocks: Any, engine: Any, workers: int | None) -> list[list[int]]:
    return [ids.tolist() for ids in encode_blocks.encode_blocks(encode, blocks, ParallelConfig(engine, workers))]


# The map


def test_results_come_in_order_and_few_are_ahead() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            asked.append(number)
            yield number

    ahead = [len(asked) - done for done, _ in enumerate(in_order(items(), str, str, 3), start=1)]
    assert ahead == [3] * 7 + [2, 1, 0]
    assert list(in_order(range(10), str, int, 3)) == list(range(10))


@pytest.mark.parametrize("workers", [1, 2, 5, None])
def test_threads_give_the_ids_of_one_after_the_other(encode: Encode, workers: int | None) -> None:
    assert ids_of(encode, BLOCKS, "local", workers) == [encode(block).tolist() for block in BLOCKS]


def test_no_two_threads_share_a_tokenizer(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    together, used = threading.Barrier(2, timeout=60), []

    def call(self: Encode, block: list[str]) -> Any:
        together.wait()  # one block in each thread
        used.append(self.tokenizer)
        return np.zeros(1, np.uint16)

    monkeypatch.setattr(Encode, "__call__", call)
    ids_of(encode, BLOCKS[:2], "local", 2)
    assert len({id(one) for one in (*used, encode.tokenizer)}) == 3


def test_an_error_of_the_reader_ends_it(encode: Encode) -> None:
    def blocks() -> Iterator[list[str]]:
        yield from BLOCKS
        raise UserError("a.txt:1", "byte 0xe9 at offset 3 is not UTF-8", "save it as UTF-8")

    threads = set(threading.enumerate())
    with pytest.raises(UserError, match=r"a.txt:1: byte 0xe9"):
        ids_of(encode, blocks(), "local", 2)
    assert set(threading.enumerate()) <= threads


def test_an_error_of_a_worker_is_raised(encode: Encode) -> None:
    with pytest.raises(TypeError, match="argument of type 'int' is not iterable"):
        ids_of(encode, [*BLOCKS, [1, 2]], "local", 2)


# The setting


@pytest.mark.parametrize(("workers", "wrong"), [(0, True), (-1, True), (1, False), (None, False)])
def test_the_number_of_workers_is_positive(workers: int | None, wrong: bool) -> None:
    assert [key for key, _, _ in ParallelConfig("local", workers).problems()] == ["workers"] * wrong


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_its_engine_is_one_error(encode: Encode) -> None:
    with pytest.raises(
        UserError, match=r"tokenize\.parallel\.engine: ray, but Ray is not installed \| fix: "
    ) as caught:
        ids_of(encode, BLOCKS, "ray", 2)
    assert caught.value.code == RESOURCES


def test_no_stage_depends_on_who_encodes() -> None:
    from dvc.repo import Repo

    with Repo(str(Path(__file__).parents[3])) as repo:
        read = {key for stage in repo.index.stages for dep in stage.deps for key in getattr(dep, "params", [])}
    assert "tokenize.corpus" in read
    assert not any(key == "tokenize" or key.startswith("tokenize.parallel") for key in read)
    assert set(params.load(Path(__file__).parents[3] / "params.yaml")["tokenize"]["parallel"]) == {"engine", "workers"}


# The stage


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with a corpus of five blocks, ready for the stage."""
    made = Project.create(tmp_path / "project")
    made.set(tracking={"enabled": False}, download={"corpus": {"source": "mine"}}, tokenizer={"vocab_size": 300})
    (made.folder / "mine").mkdir()
    text = "\n\n".join(f"{number}: the quick brown fox, naïve again" for number in range(60_000))
    (made.folder / "mine/a.txt").write_text(text, encoding="utf-8")
    (made.folder / "mine/b.jsonl").write_text("".join(json.dumps({"text": text[:9999]}) + "\n" for _ in range(200)))
    made.run("stages.download", "corpus")
    made.run("stages.tokenizer")
    return made


def shards(project: Project, engine: str, workers: int | None) -> dict[str, bytes]:
    project.set(tokenize={"parallel": {"engine": engine, "workers": workers}})
    project.run("stages.tokenize_corpus")
    return project.bytes("data/corpus", "reports")


@pytest.mark.slow
def test_one_worker_and_two_write_the_same_bytes(project: Project) -> None:
    assert shards(project, "local", 1) == shards(project, "local", 2)


@pytest.mark.slow
@needs_ray
def test_a_ray_cluster_writes_the_same_bytes_and_the_same_error(project: Project) -> None:
    assert shards(project, "ray", 2) == shards(project, "local", 1)
    before = project.bytes("data/corpus", "reports")
    (project.folder / "data/raw/corpus/z.txt").write_bytes(b"caf\xe9")
    here, there = (refused(project, engine) for engine in ("local", "ray"))
    assert here == there
    assert here[0] == 3
    assert project.bytes("data/corpus", "reports") == before


def refused(project: Project, engine: str) -> tuple[int, list[str]]:
    project.set(tokenize={"parallel": {"engine": engine, "workers": 2}})
    done = project.run("stages.tokenize_corpus", ok=False)
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("error:")]


@pytest.mark.slow
@needs_ray
@pytest.mark.parametrize("how", ["once", "always"])
def test_a_ray_worker_that_is_killed_loses_nothing(
    encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Killed once, the block is encoded again; killed every time, it is one error."""
    deadly = Deadly(encode.tokenizer, encode.kind, tmp_path / "killed", how == "always")
    if how == "once":
        expected = [encode(block).tolist() for block in BLOCKS]
        assert ids_of(deadly, BLOCKS, "ray", 2) == expected
        assert (tmp_path / "killed").exists()
        return
    with pytest.raises(UserError, match=r"the Ray worker of a block died 4 times") as caught:
        ids_of(deadly, BLOCKS, "ray", 2)
    assert caught.value.code == RESOURCES


class Deadly(Encode):
    """Kills the process that encodes block 7."""

    def __init__(self, tokenizer: Tokenizer, kind: Any, mark: Path, always: bool) -> None:
        super().__init__(tokenizer, kind)
        object.__setattr__(self, "mark", mark)
        object.__setattr__(self, "always", always)

    def __call__(self, block: list[str]) -> Any:
        if block[0] == "7 foxes" and (self.always or not self.mark.exists()):
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(block)


@pytest.mark.slow
@needs_ray
def test_sigterm_and_sigkill_leave_no_process_of_ray(project: Project) -> None:
    project.set(tokenize={"parallel": {"engine": "ray", "workers": 1}})
    big = project.folder / "data/raw/corpus/a.txt"
    big.write_bytes(big.read_bytes() * 30)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        with project.start("stages.tokenize_corpus") as process:
            below = workers_of(process.pid)
            process.send_signal(number)
            error = process.communicate()[1]
        assert process.returncode == code, error
        assert number == signal.SIGKILL or "error: terminated: by SIGTERM; nothing was published" in error
        _, alive = psutil.wait_procs(below, timeout=90)  # the agents of a raylet look now and then whether it lives
        assert alive == []


def workers_of(pid: int) -> list[psutil.Process]:
    """All processes below, once a Ray worker encodes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        below = psutil.Process(pid).children(recursive=True)
        if any("_encode_there" in " ".join(one.cmdline()) for one in below if one.is_running()):
            return below
        time.sleep(0.1)
    raise AssertionError("no worker of Ray began")


@needs_ray
def test_a_cluster_that_cannot_be_reached_is_one_error(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # bound, but no one listens
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(UserError, match=rf"cannot reach the Ray cluster at {address}: ") as caught:
            ids_of(encode, BLOCKS, "ray", 2)
    assert caught.value.code == SERVICE
