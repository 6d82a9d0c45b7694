"""What downloads and judges share of HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import requests

T = TypeVar("T")


class Session(requests.Session):
    """Never looks where a redirect points: even unfollowed, requests would read its whole body to prepare for it."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Nowhere."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """Run `work` in a thread and wait so long for it, no longer; TimeoutError then.

    A socket's own timeout starts again with every byte, also in the headers: a server that drips would hold us.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)
