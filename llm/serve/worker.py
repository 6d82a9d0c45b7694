"""The thread that computes: it steps the engines in turn and does other work in between."""

from __future__ import annotations

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from llm.serve.engine import Engine, Piece, Request
from llm.serve.look import Work

Deliver = Callable[[list[tuple[Request, Piece]]], None]


class Full(Exception):
    """The queue is full."""


class Worker:
    """Computes in one thread: two would only compete for the cores."""

    def __init__(self, engines: Sequence[Engine], deliver: Deliver, queue: int) -> None:
        self._engines, self._deliver, self._queue = engines, deliver, queue
        self._works: deque[tuple[Work, Future[dict[str, Any]]]] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests and other work that have not started."""
        return sum(len(engine.waiting) for engine in self._engines) + len(self._works)

    @property
    def running(self) -> int:
        """Requests that are being decoded."""
        return sum(len(engine.running) for engine in self._engines)

    def submit(self, engine: Engine, request: Request) -> None:
        """Queue a request. Raises Full."""
        with self._change:
            self._check_room()
            engine.waiting.append(request)
            self._change.notify()

    def work(self, work: Work) -> Future[dict[str, Any]]:
        """Queue other work; returns its result in future. Raises Full."""
        future: Future[dict[str, Any]] = Future()
        with self._change:
            self._check_room()
            self._works.append((work, future))
            self._change.notify()
        return future

    def close(self) -> None:
        """End the thread after the current step."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _check_room(self) -> None:
        if self.waiting >= self._queue:
            raise Full

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or self._works or any(e.busy for e in self._engines))
                if self._closed:
                    return
            for engine in self._engines:
                if engine.busy:
                    self._step(engine)
            if self._works:
                self._work()

    def _step(self, engine: Engine) -> None:
        try:
            sent = engine.step()
        except Exception:  # such as no memory: the requests end with an error, the server goes on
            traceback.print_exc(file=sys.stderr)
            sent = engine.fail()
        if sent:
            self._deliver(sent)

    def _work(self) -> None:
        work, future = self._works[0]
        if future.cancelled():
            self._works.popleft()
            return
        try:
            next(work)
        except StopIteration as end:
            self._works.popleft()
            if future.set_running_or_notify_cancel():
                future.set_result(end.value)
        except Exception as error:
            self._works.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
