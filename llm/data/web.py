"""Download one URL to one file: partial files are resumed, and wrong content is recognised."""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import requests

from llm.common.http import Failure, read_body, retry, send, status_failure
from llm.data import signatures

ATTEMPTS = 4
READ_SECONDS = 30.0  # without a single byte
GRACE_SECONDS = 60.0  # a body may take this long, plus its bytes at the minimal rate
MINIMAL_RATE = 16_384.0  # bytes per second
SIZE_LIMIT = 16 << 30  # bytes of a file of unknown size; GPT-2 XL has 6.4 GB


class WrongContent(Failure):
    """The server sent other content than the file."""


@dataclass(frozen=True)
class Declared:
    """The hash and size in bytes that the server declares for a file."""

    sha256: str | None = None
    size: int | None = None


def download(url: str, part: Path, size: int | None, received: Callable[[int, int | None], None]) -> Declared:
    """Download the URL to `part`, at most `size` bytes; continue a partial file if the server still has the same one.

    `received` is called with the bytes so far and the total, if known. Raises Failure.
    """
    return retry(ATTEMPTS, partial(_attempt, url, part, size, received))


def remove_partial(part: Path) -> None:
    """Remove a partial file and the files that belong to it."""
    for path in part.parent.glob(f"{part.stem}.*"):
        path.unlink(missing_ok=True)


def wrong_content(content: Path, what: str) -> WrongContent:
    """Make the failure for content that is not the file; an error page is named as such."""
    page = error_page(content)
    return WrongContent(f"{page} instead of the file ({what})" if page else what)


def error_page(content: Path) -> str | None:
    """Name what some servers send with status 200 instead of a file, or return None."""
    with content.open("rb") as file:
        return signatures.error_page(file.read(signatures.HEAD))


def _attempt(url: str, part: Path, size: int | None, received: Callable[[int, int | None], None]) -> Declared:
    note = part.with_suffix(".validator")
    validator = note.read_text("utf-8") if note.exists() and part.exists() else ""
    offset = part.stat().st_size if validator else 0
    headers = _credentials(url) | ({"Range": f"bytes={offset}-", "If-Range": validator} if offset else {})
    with send("GET", url, READ_SECONDS, headers=headers) as response:
        declared = _declared(response)
        status, content_range = response.status_code, response.headers.get("content-range", "")
        if status == 416 and offset and content_range == f"bytes */{offset}":
            return declared  # the partial file was complete
        if status == 416 or (status == 206 and not (offset and content_range.startswith(f"bytes {offset}-"))):
            remove_partial(part)
            raise Failure(f"status {status}, but the download cannot be resumed", again=True)
        if status not in (200, 206):
            raise status_failure(response, _why_refused(response))
        if status == 200:
            remove_partial(part)
            note.write_text(_validator(response.headers), "utf-8")
        with part.open("ab") as out:
            rest = response.raw.length_remaining
            total = size if rest is None else out.tell() + rest
            for chunk in read_body(response, GRACE_SECONDS, MINIMAL_RATE):
                out.write(chunk)
                received(out.tell(), total)
                if out.tell() > (size or SIZE_LIMIT):
                    out.flush()
                    raise wrong_content(part, f"more than the {size or SIZE_LIMIT} bytes expected")
    return declared


def _credentials(url: str) -> dict[str, str]:
    """The header with HF_TOKEN for Hugging Face, or for the server that HF_ENDPOINT names; nothing for all others.

    `requests` drops it when a redirect leads to another host.
    """
    token, hub = os.environ.get("HF_TOKEN"), urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    asked = urlsplit(url)
    return {"Authorization": f"Bearer {token}"} if token and asked[:2] == hub[:2] else {}


def _why_refused(response: requests.Response) -> str:
    """What the server wants, if it refused for lack of rights; else an empty string."""
    if response.headers.get("x-error-code") == "GatedRepo":
        return ": the repository is gated. Accept its licence on its page, and set HF_TOKEN to an access token"
    return ": the server wants credentials" if response.status_code == 401 else ""


def _declared(response: requests.Response) -> Declared:
    """Hugging Face declares a file's sha256 as x-linked-etag, on the redirect to its storage.

    A plain ETag is not a hash of the content, even if it looks like one: GitHub's has 64 hex digits too.
    """
    headers = ChainMap(*(hop.headers for hop in [response, *response.history]))
    digest = re.fullmatch(r'"?([0-9a-f]{64})"?', headers.get("x-linked-etag", ""))
    size = headers.get("x-linked-size", "")
    return Declared(digest[1] if digest else None, int(size) if size.isdecimal() else None)


def _validator(headers: Mapping[str, str]) -> str:
    """Return a strong ETag for If-Range, else the date of the last change, else an empty string."""
    etag = headers.get("etag", "")
    return etag if etag.startswith('"') else headers.get("last-modified", "")
