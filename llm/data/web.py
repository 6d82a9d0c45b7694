"""One address of the web -> one file: redirects, resuming, deadlines, retries, and content that is none."""

from __future__ import annotations

import email.utils
import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from llm.common.errors import DATA, SERVICE
from llm.common.http import Session, within

REDIRECTS = 5
CHUNK_BYTES = 1 << 18
SIZE_LIMIT = 16 << 30  # for a file whose size is not known; GPT-2 XL has 6.4 GB
DISGUISES = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"version https://git-lfs.github.com/spec/": "a Git-LFS pointer",
}

Received = Callable[[int, int | None], None]  # told of the bytes so far, and of the bytes in all where known


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to ask again."""

    stall_seconds: float = 30.0  # without a single byte
    grace_seconds: float = 60.0  # for the headers; and for a body on top of its bytes at the slowest rate
    bytes_per_second: float = 16_384.0  # the slowest rate worth waiting for: a bound on the total time, by size
    attempts: int = 4  # for each URL
    backoff_seconds: float = 0.5  # doubled each time
    longest_wait_seconds: float = 60.0  # whatever Retry-After says
    sleep: Callable[[float], None] = time.sleep


PATIENCE = Patience()


@dataclass(frozen=True)
class Declared:
    """What the server says about a file in its own storage headers."""

    sha256: str | None = None
    size: int | None = None


class Failure(Exception):
    """One address did not give the file: ask again after `wait` seconds, or (None) turn to the next address."""

    def __init__(self, what: str, code: int = SERVICE, wait: float | None = None) -> None:
        super().__init__(what)
        self.code, self.wait = code, wait


def bring(url: str, part: Path, size: int | None, received: Received, patience: Patience) -> Declared:
    """Fill `part` (`<name>.part`) from the URL, asking again as patience allows; no more than `size` bytes.

    What an earlier call left there is continued where the server still has the same file. Raises Failure.
    """
    for attempt in range(patience.attempts):
        try:
            return _attempt(url, part, size, received, patience)
        except Failure as failure:
            if failure.wait is None or attempt + 1 == patience.attempts:
                raise
            wait = max(failure.wait, patience.backoff_seconds * 2**attempt)
            patience.sleep(min(wait, patience.longest_wait_seconds))
    raise AssertionError("at least one attempt")


def forget(part: Path) -> None:
    """Remove the part and what lies beside it under its name."""
    for path in part.parent.glob(f"{part.stem}.*"):
        path.unlink(missing_ok=True)


def wrong(content: Path, what: str) -> Failure:
    """The failure of an address that sent other content than the file."""
    disguise = disguise_of(content)
    return Failure(f"{disguise} instead of the file ({what})" if disguise else what, DATA)


def disguise_of(content: Path) -> str | None:
    """What servers send in place of a file, with status 200: its name, or None where it is nothing such."""
    with content.open("rb") as file:
        head = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((name for start, name in DISGUISES.items() if head.startswith(start)), None)


def _attempt(url: str, part: Path, size: int | None, received: Received, patience: Patience) -> Declared:
    """Ask once, from where `part` ends if the server still has the same file."""
    note = part.with_suffix(".validator")
    validator = note.read_text("utf-8") if note.exists() else ""
    offset = part.stat().st_size if validator and part.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": validator}
    response, declared = _open(url, headers, patience)
    with response:
        status, content_range = response.status_code, response.headers.get("content-range", "")
        if status == 416 and offset and content_range == f"bytes */{offset}":
            return declared  # it was complete
        resumed = content_range.startswith(f"bytes {offset}-") and _validator(response.headers) in ("", validator)
        if status == 416 or (status == 206 and not (offset and resumed)):
            forget(part)
            raise Failure(f"status {status}, but the partial download cannot go on", wait=0)
        if status not in (200, 206):
            again = status in (408, 429) or status >= 500
            raise Failure(f"status {status}", wait=_retry_after(response.headers) if again else None)
        encoding = response.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Failure(f"sent as {encoding}, although identity was asked for")
        if status == 200:
            forget(part)
            note.write_text(_validator(response.headers), "utf-8")
        _stream(response, part, size, received, patience)
    return declared


def _stream(response: requests.Response, part: Path, size: int | None, received: Received, patience: Patience) -> None:
    """Append the body to `part`; no more bytes than expected, and no slower than patience allows."""
    limit = size or SIZE_LIMIT
    started, remaining = time.monotonic(), response.raw.length_remaining
    with part.open("ab") as out:
        done = before = out.tell()
        total = size if remaining is None else before + remaining
        try:
            while done <= limit and (chunk := response.raw.read1(CHUNK_BYTES, decode_content=False)):
                out.write(chunk)
                done += len(chunk)
                received(done, total)
                seconds = time.monotonic() - started
                if seconds > patience.grace_seconds + (done - before) / patience.bytes_per_second:
                    raise Failure(f"too slow: {done - before} bytes in {seconds:.0f} seconds", wait=0)
        except HTTPError as error:
            raise Failure(f"truncated at {done} of {total or 'unknown'} bytes: {_reason(error)}", wait=0) from None
    if done > limit:
        raise wrong(part, f"more than the {limit} bytes expected")
    if total is not None and done < total:
        what = f"truncated at {done} of {total} bytes"
        raise wrong(part, what) if disguise_of(part) else Failure(what, wait=0)


def _open(url: str, headers: Mapping[str, str], patience: Patience) -> tuple[requests.Response, Declared]:
    """GET, following redirects by hand: none may leave https, and any hop may declare hash and size."""
    declared = Declared()
    for _ in range(REDIRECTS + 1):
        response = _get(url, headers, patience)
        declared = _declared(response.headers, declared)
        if response.status_code not in (301, 302, 303, 307, 308):
            return response, declared
        response.close()
        url = _redirected(url, response.headers.get("location", ""))
    raise Failure(f"more than {REDIRECTS} redirects")


def _redirected(url: str, location: str) -> str:
    with suppress(ValueError):
        target = urljoin(url, location)
        allowed = ("https",) if urlsplit(url).scheme == "https" else ("http", "https")
        if urlsplit(target).scheme in allowed:
            return target
    raise Failure(f"refused the redirect to {location.partition('?')[0]!r}")


def _get(url: str, headers: Mapping[str, str], patience: Patience) -> requests.Response:
    """One GET, without its body."""
    session = Session()
    session.trust_env = not _is_loopback(url)  # no proxy to oneself
    ask = partial(session.get, url, headers=headers, stream=True, timeout=patience.stall_seconds)
    try:
        return within(patience.grace_seconds, ask)
    except TimeoutError:
        raise Failure(f"no answer within {patience.grace_seconds:.0f} seconds", wait=0) from None
    except Exception as error:
        again = isinstance(error, requests.ConnectionError | requests.Timeout)
        raise Failure(f"no answer: {_reason(error)}", wait=0 if again else None) from None


def _declared(headers: Mapping[str, str], before: Declared) -> Declared:
    """Hugging Face declares a file's sha256 as x-linked-etag, on the redirect to its storage.

    A plain ETag is opaque: GitHub's has 64 hex digits too, and is no hash of the content.
    """
    digest = re.fullmatch(r'"?([0-9a-f]{64})"?', headers.get("x-linked-etag", ""))
    size = headers.get("x-linked-size", "")
    return Declared(digest[1] if digest else before.sha256, int(size) if size.isdecimal() else before.size)


def _validator(headers: Mapping[str, str]) -> str:
    """What If-Range may carry: a strong ETag, else the date of the last change, else nothing."""
    etag = headers.get("etag", "")
    return etag if etag.startswith('"') else headers.get("last-modified", "")


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds to wait that the server asks for, as such or as a date; 0 where it does not."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    with suppress(ValueError):
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    return 0.0


def _reason(error: BaseException) -> str:
    """The innermost cause in one line, without the pools and retries around it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return " ".join(str(error).split()) or type(error).__name__


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
