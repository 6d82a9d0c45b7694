"""HTTP requests for downloads and judges: time limits, retries, and redirects that stay on https."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, Self, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, InvalidHeader

from llm.common.urls import is_loopback

T = TypeVar("T")

MAX_REDIRECTS = 5
CHUNK_BYTES = 1 << 18
BACKOFF_SECONDS = 0.5  # doubled after each attempt
MAX_WAIT_SECONDS = 60.0  # also if Retry-After asks for more


class Failure(Exception):
    """A request without a usable answer. `again`: another attempt may succeed, after at least `wait` seconds."""

    def __init__(self, what: str, again: bool = False, wait: float = 0.0) -> None:
        super().__init__(what)
        self.again, self.wait = again, wait


class _Watch:
    """In a `with` block, shuts a socket down at `deadline`, so that a read which waits there ends.

    The time limit of a socket counts anew for each read: a server that sends a byte now and then never reaches it.
    Without a socket, the deadline is only kept for the caller.
    """

    def __init__(self, sock: socket.socket | None, seconds: float) -> None:
        self.deadline, self.late = monotonic() + seconds, False
        self._sock, self._ended = sock, threading.Event()

    def __enter__(self) -> Self:
        if self._sock is not None:
            threading.Thread(target=self._run, args=(self._sock,), name="deadline", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _run(self, sock: socket.socket) -> None:
        while not self._ended.wait(max(0.0, self.deadline - monotonic())):
            if monotonic() >= self.deadline:
                self.late = True
                with suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # the one of TLS would wait for an answer
                return


class _InTime:
    """A connection of urllib3 whose headers must arrive within its time limit."""

    sock: socket.socket | None
    timeout: float

    def getresponse(self) -> Any:
        sock = self.sock
        if sock is None:  # the server has gone: this says so
            return super().getresponse()  # type: ignore[misc]
        response: Any = None
        with _Watch(sock, self.timeout) as watch:
            try:
                response = super().getresponse()  # type: ignore[misc]
            except Exception:
                if not watch.late:
                    raise
        if watch.late:  # also if the headers look whole: a connection that is shut down ends them
            raise TimeoutError("timed out")
        response.watched = sock
        return response


class _Adapter(HTTPAdapter):
    """Makes connections `_InTime`."""

    def get_connection_with_tls_context(self, *words: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*words, **options)
        if not issubclass(pool.ConnectionCls, _InTime):
            pool.ConnectionCls = type("Connection", (_InTime, pool.ConnectionCls), {})
        return pool


class _Session(requests.Session):
    def __init__(self) -> None:
        super().__init__()
        for scheme in ("http", "https"):
            self.mount(f"{scheme}://", _Adapter())

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return the target of a redirect. Raises Failure if it leaves https, or http and https."""
        location = super().get_redirect_target(resp)
        if location is None:
            return None
        resp.close()  # otherwise requests reads the whole body of the redirect
        target = urljoin(resp.url, location)
        if urlsplit(target).scheme not in {"https", urlsplit(resp.url).scheme}:
            raise Failure(f"refused the redirect to {location.partition('?')[0]!r}")  # a query may hold a signature
        return target


def send(method: str, url: str, seconds: float, **options: Any) -> requests.Response:
    """Send a request and return the response with its body unread; `options` are those of `requests.request`.

    `seconds` limits the wait for the connection, and then that for the whole headers. Raises Failure.
    """
    session = _Session()
    session.max_redirects = MAX_REDIRECTS
    session.headers["Accept-Encoding"] = "identity"  # a compressed reply could expand beyond every limit
    session.trust_env = not is_loopback(url)  # no proxy for this machine
    try:
        return session.request(method, url, stream=True, timeout=seconds, **options)
    except (requests.RequestException, HTTPError, ValueError) as error:
        again = isinstance(error, requests.ConnectionError | requests.Timeout)
        raise Failure(f"no answer: {_reason(error)}", again) from None


def read_body(response: requests.Response, seconds: float, bytes_per_second: float = math.inf) -> Iterator[bytes]:
    """Yield the pieces of the body as they arrive.

    The body may take `seconds`, plus the time it needs at `bytes_per_second`. Raises Failure if it is slower, breaks
    off, or is compressed.
    """
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise Failure(f"sent as {encoding}, although identity was asked for")
    start, done, broken = monotonic(), 0, ""
    with _Watch(getattr(response.raw, "watched", None), seconds) as watch:  # none if the connection is not ours
        try:
            while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):  # read() would wait for a full chunk
                done += len(chunk)
                watch.deadline = start + seconds + done / bytes_per_second
                if monotonic() > watch.deadline:
                    watch.late = True
                    break
                yield chunk
        except HTTPError as error:
            broken = f"broken off after {done} bytes: {_reason(error)}"
    if watch.late:  # also if the body looks whole: a connection that is shut down ends it
        raise Failure(f"too slow: incomplete after {watch.deadline - start:.3g} s", again=True)
    if broken:
        raise Failure(broken, again=True)


def retry(attempts: int, work: Callable[[], T]) -> T:
    """Call `work` until it succeeds, at most `attempts` times, with growing waits. Raises the last Failure."""
    for attempt in range(attempts):
        try:
            return work()
        except Failure as failure:
            if not failure.again or attempt + 1 == attempts:
                raise
            sleep(min(max(failure.wait, BACKOFF_SECONDS * 2**attempt), MAX_WAIT_SECONDS))
    raise AssertionError("at least one attempt")


def status_failure(response: requests.Response, detail: str = "") -> Failure:
    """Make the Failure of a status; 408, 429 and 5xx are worth another attempt, after Retry-After."""
    wait, status = 0.0, response.status_code
    with suppress(InvalidHeader):
        wait = urllib3.Retry().get_retry_after(response.raw) or 0.0
    return Failure(f"status {status}{detail}", status in (408, 429) or status >= 500, wait)


def _reason(error: BaseException) -> str:
    """Return the innermost cause in one line. The outer errors contain memory addresses."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return " ".join(str(error).split()) or type(error).__name__
