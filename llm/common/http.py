"""HTTP requests for downloads and judges: time limits, retries, and redirects that stay on https."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic, sleep
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from urllib3.exceptions import HTTPError, InvalidHeader

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


class _Session(requests.Session):
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

    `seconds` limits the wait for the connection, and then for each read. Raises Failure.
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
    start, done = monotonic(), 0
    try:
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):  # read() would wait for a full chunk
            done += len(chunk)
            limit = seconds + done / bytes_per_second
            if monotonic() - start > limit:
                raise Failure(f"too slow: incomplete after {limit:.3g} s", again=True)
            yield chunk
    except HTTPError as error:
        raise Failure(f"broken off after {done} bytes: {_reason(error)}", again=True) from None


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


def is_plain_url(url: str) -> bool:
    """Return whether this is an http(s) URL with a host, and without user, password, blanks or backslashes."""
    with suppress(ValueError):  # a bad port or bracket
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        return known and "@" not in parts.netloc and not re.search(r"[\s\\]", url)
    return False


def is_loopback(url: str) -> bool:
    """Return whether the URL names this machine: `localhost` or a loopback address."""
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _reason(error: BaseException) -> str:
    """Return the innermost cause in one line. The outer errors contain memory addresses."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return " ".join(str(error).split()) or type(error).__name__
