"""Encode blocks of text in threads of this process or in a Ray cluster. The ids do not depend on which.

A block is a list of texts, and depends on the files alone. `encode_block` is a pure function of it. One process reads
the blocks and writes their ids in order; an engine only maps. Reading is about twenty times as fast as one CPU encodes.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray

from llm.common.cores import cores
from llm.common.errors import RESOURCES, SERVICE, STOPS, Terminated, UserError
from llm.common.params import Problem, positive
from llm.data.tokenizer import Tokenizer

WHERE = "params.yaml: tokenize.parallel"
THREADS = 8  # at most, if no number is given
AHEAD = 2  # blocks that wait for each worker
RETRIES = 3  # of a block whose Ray worker died
OBJECTS = 256 << 20  # bytes of the shared memory of a local Ray cluster
CONNECT_SECONDS = 10
LOOK_SECONDS = 0.5  # how often a wait for Ray looks at the signals
PACKAGE = Path(__file__).parents[1]
Block = list[str]
T = TypeVar("T")
F = TypeVar("F")
R = TypeVar("R")


@dataclass(frozen=True)
class ParallelConfig:
    """Section `tokenize.parallel` of params.yaml: who encodes the corpus; decides no result."""

    engine: Literal["local", "ray"]
    workers: int | None  # None: all CPUs; with local at most THREADS

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "workers")


@dataclass(frozen=True)
class Encode:
    """The pure function of a block: its token ids (N,), with the end of text between two texts."""

    tokenizer: Tokenizer
    kind: Any  # numpy type of the ids

    def __call__(self, block: Block) -> NDArray[Any]:
        return self.tokenizer.encode_joined(block).astype(self.kind)


def encode_blocks(encode: Encode, blocks: Iterable[Block], config: ParallelConfig) -> Iterator[NDArray[Any]]:
    """Yield the ids of each block, in order. Holds AHEAD blocks for each worker, and one more.

    Raises UserError if Ray is not installed, if its cluster cannot be reached, or if its workers die again and again.
    """
    return (_in_ray if config.engine == "ray" else _in_threads)(encode, blocks, config.workers)


def in_order(items: Iterable[T], submit: Callable[[T], F], result: Callable[[F], R], ahead: int) -> Iterator[R]:
    """Yield the results of the items in their order. At most `ahead` + 1 are submitted and not yet asked for."""
    waiting: deque[F] = deque()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) > ahead:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())


def _in_threads(encode: Encode, blocks: Iterable[Block], workers: int | None) -> Iterator[NDArray[Any]]:
    """Threads suffice: tiktoken releases the lock of the interpreter while it encodes.

    Each has a tokenizer of its own. Threads with a common one contend for the caches of its regular expressions.
    """
    count = workers or min(THREADS, cores())
    own = threading.local()

    def start() -> None:
        own.encode = replace(encode, tokenizer=encode.tokenizer.copy())

    def encode_here(block: Block) -> NDArray[Any]:
        ids: NDArray[Any] = own.encode(block)
        return ids

    with ThreadPoolExecutor(count, initializer=start) as pool:
        yield from in_order(blocks, lambda block: pool.submit(encode_here, block), Future.result, AHEAD * count)


def _in_ray(encode: Encode, blocks: Iterable[Block], workers: int | None) -> Iterator[NDArray[Any]]:
    with _cluster(workers) as ray, _signals_at() as look:
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        held = [ray.put(encode)]  # in a list, so that a task gets the reference, and a worker loads the tokenizer once
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_encode_there)

        def result(reference: Any) -> NDArray[Any]:
            while not ray.wait([reference], timeout=LOOK_SECONDS)[0]:
                look()
            look()
            ids: NDArray[Any] = ray.get(reference)
            return ids

        try:
            yield from in_order(blocks, lambda block: task.remote(held, block), result, AHEAD * count)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.ObjectLostError) as error:
            what = f"the Ray worker of a block died {RETRIES + 1} times: {_first_line(error)}"
            raise UserError(WHERE, what, "give the workers more memory, or lower workers", RESOURCES) from None
        except ray.exceptions.RayError as error:
            raise UserError(WHERE, f"Ray failed: {_first_line(error)}", "see the log of the cluster", SERVICE) from None


def _encode_there(held: list[Any], block: Block) -> NDArray[Any]:
    """Run in a Ray worker."""
    return _held(held[0])(block)


@lru_cache(maxsize=1)
def _held(reference: Any) -> Encode:
    import ray

    encode: Encode = ray.get(reference)
    return encode


@contextmanager
def _cluster(workers: int | None) -> Iterator[Any]:
    """Connect to the cluster that RAY_ADDRESS names, or start one on this machine's loopback for as long as needed."""
    if find_spec("ray") is None:
        fix = "pip install -c constraints.txt ray, or set it to local"
        raise UserError(f"{WHERE}.engine", "ray, but Ray is not installed", fix, RESOURCES)
    address = os.environ.get("RAY_ADDRESS", "")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        _check_reachable(address)
        options |= {"runtime_env": {"py_modules": [str(PACKAGE)]}}  # other hosts have no copy of the project
    else:
        options |= {"address": "local", "num_cpus": workers or cores(), "include_dashboard": False}
        options |= {"object_store_memory": OBJECTS, "_node_ip_address": "127.0.0.1"}
    with _our_sigterm():
        import ray

        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise _unreachable(address, _first_line(error)) from None
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """Keep our handler of SIGTERM. `ray.init` puts one in its place that exits with the number of the signal."""
    ours = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise Terminated from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ours)


@contextmanager
def _signals_at() -> Iterator[Callable[[], None]]:
    """Hold SIGTERM and SIGINT back until the function is called: Ray's compiled code loses a handler's exception."""
    found: list[int] = []
    handlers = {number: handler for number in STOPS if callable(handler := signal.getsignal(number))}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}

    def look() -> None:
        for number in found:
            handlers[signal.Signals(number)](number, None)

    for number in handlers:
        signal.signal(number, lambda number, _frame: found.append(number))
    try:
        yield look
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _check_reachable(address: str) -> None:
    """Raise UserError if no one listens at `host:port`: Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # such as `auto`
        return
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, _first_line(error)) from None


def _unreachable(address: str, reason: str) -> UserError:
    what = f"cannot reach the Ray cluster at {address}" if address else "cannot start Ray"
    return UserError(WHERE, f"{what}: {reason}", "correct RAY_ADDRESS or RAY_AUTH_TOKEN, or set engine: local", SERVICE)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
