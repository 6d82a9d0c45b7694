"""A body is read within its time also where the connection is not ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from llm.common import http

BODY = b"abcdefghij"


class Slow(BaseHTTPRequestHandler):
    """Sends a byte at once, and each further one after the pause of the path, in seconds."""

    stopped = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        for byte in BODY:
            self.wfile.write(bytes([byte]))
            if self.stopped.wait(float(self.path[1:])):
                return

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Slow.stopped.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        Slow.stopped.set()
        server.shutdown()


def test_a_whole_body(address: str) -> None:
    with requests.get(f"{address}/0", stream=True, timeout=30) as response:
        assert not hasattr(response.raw, "watched")
        assert b"".join(http.read_body(response, 60)) == BODY


def test_a_slow_body_is_given_up(address: str) -> None:
    with requests.get(f"{address}/0.4", stream=True, timeout=30) as response:
        with pytest.raises(http.Failure, match="too slow: incomplete after 1 s") as caught:
            list(http.read_body(response, 1.0))
        assert caught.value.again
