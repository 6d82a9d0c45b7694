"""A judge on loopback that speaks Ollama's and OpenAI's protocol, and can misbehave as servers do.

with FakeJudge("ollama", [answer("85"), status(500), drip]) as fake: ...   # the last behaviour is repeated
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from llm.evaluate.judge_tasks import TRIAL

PATHS = {"ollama": ("/api/tags", "/api/chat"), "openai": ("/v1/models", "/v1/chat/completions")}


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        (message,) = self.body["messages"]
        assert message["role"] == "user"
        return str(message["content"])


@dataclass
class FakeJudge:
    protocol: str
    behaviours: Sequence[Behaviour]
    looks: int = 0  # GETs: is anybody there?
    asked: list[Asked] = field(default_factory=list)
    trial: Behaviour | None = None  # default: a score
    trials: list[Asked] = field(default_factory=list)  # the trial questions, which are not in `asked`
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"fake": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads, self.server.block_on_close = True, False
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    fake: FakeJudge
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.fake.looks += 1
        self.send(200, b"{}")

    def do_POST(self) -> None:
        self.close_connection = True
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = Asked(self.path, dict(self.headers), body)
        if TRIAL["model_response"] in asked.prompt and self.path == PATHS[self.fake.protocol][1]:
            self.fake.trials.append(asked)
            (self.fake.trial or answer("100"))(self)
            return
        number = len(self.fake.asked)
        self.fake.asked.append(asked)
        if self.path != PATHS[self.fake.protocol][1]:
            self.send(404, b"404 page not found")
            return
        behaviour = self.fake.behaviours[min(number, len(self.fake.behaviours) - 1)]
        with suppress(OSError):  # the client may hang up
            behaviour(self)

    def send(self, code: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def reply(self, text: str, **extra: Any) -> bytes:
        """A whole reply in the words of the protocol; `extra` goes over its fields."""
        message = {"role": "assistant", "content": text, **extra.pop("message", {})}
        if self.fake.protocol == "ollama":
            value = {"model": "llama3", "message": message, "done": True, "done_reason": "stop", **extra}
        else:
            value = {"object": "chat.completion", "choices": [{"message": message, "finish_reason": "stop", **extra}]}
        return json.dumps(value).encode()


Behaviour = Callable[[_Handler], None]


def answer(text: str, **extra: Any) -> Behaviour:
    return lambda handler: handler.send(200, handler.reply(text, **extra))


def length(text: str) -> Behaviour:
    """The model ran into its length limit."""

    def behave(handler: _Handler) -> None:
        name = "done_reason" if handler.fake.protocol == "ollama" else "finish_reason"
        handler.send(200, handler.reply(text, **{name: "length"}))

    return behave


def stream(*pieces: str, done: bool = True) -> Behaviour:
    """Ollama's stream: a JSON line per piece, the last one closing; without it a cut stream."""

    def behave(handler: _Handler) -> None:
        lines = [{"message": {"role": "assistant", "content": piece}, "done": False} for piece in pieces]
        lines += [{"message": {"role": "assistant", "content": ""}, "done": True}] if done else []
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        handler.send(200, body, "application/x-ndjson")

    return behave


def raw(body: bytes, code: int = 200, kind: str = "application/json", **headers: str) -> Behaviour:
    return lambda handler: handler.send(code, body, kind, **headers)


def status(code: int, body: bytes = b'{"error": "no"}', **headers: str) -> Behaviour:
    return raw(body, code, **headers)


def redirect(url: str) -> Behaviour:
    return status(302, b"x" * 100, Location=url)


def echo_header(name: str) -> Behaviour:
    """The reply is what the client sent in a header."""
    return lambda handler: handler.send(200, handler.reply(str(handler.headers.get(name))))


def hang(handler: _Handler) -> None:
    handler.fake.stop.wait(30)


def drip(handler: _Handler) -> None:
    """A byte of the body at a time, each well within any timeout of a single read."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.fake.stop.wait(0.05):
        handler.wfile.write(b" ")


def dripped(*pieces: bytes) -> Behaviour:
    """The bytes of the pieces, the last one again and again, with a pause after each that no single read minds."""

    def behave(handler: _Handler) -> None:
        for piece in (*pieces[:-1], *[pieces[-1]] * 200):
            handler.wfile.write(piece)
            if handler.fake.stop.wait(0.05):
                return

    return behave


def flood(code: int) -> Behaviour:
    """A reply without an end."""

    def behave(handler: _Handler) -> None:
        handler.send_response(code)
        handler.send_header("Location", "/elsewhere")
        handler.send_header("Connection", "close")
        handler.end_headers()
        while not handler.fake.stop.is_set():
            handler.wfile.write(b" " * 65536)

    return behave


def hang_up(handler: _Handler) -> None:
    """The connection ends before the first byte of a reply."""
    handler.connection.close()


def short_body(handler: _Handler) -> None:
    """A valid JSON text, but shorter than Content-Length says."""
    handler.send(200, handler.reply("10"), length="5000")
