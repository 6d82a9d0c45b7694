"""Judges behind HTTP: one prompt in, one `Reply` out, whatever the server does.

Ollama's /api/chat and the /v1/chat/completions that OpenAI defined and many servers speak. `Server.ask` returns or
raises UserError where no further question can succeed: a wrong key, a model that is not there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import requests
import urllib3

from llm.common.errors import SERVICE, USAGE, UserError
from llm.common.http import Session, within
from llm.evaluate.judge_config import KEY_VARIABLE, Address, JudgeConfig

READY_SECONDS = 4.0  # a server that is down is reported within 5
MAX_REPLY_BYTES = 1 << 20
BACKOFF_SECONDS = 0.5  # doubles with each attempt
MAX_WAIT_SECONDS = 30.0  # whatever Retry-After says


@dataclass(frozen=True)
class Reply:
    """What came of one question; `text` is the judge's own words, or for `failed` the reason."""

    kind: Literal["whole", "cut", "refused", "failed"]  # cut: the model ran into its length limit
    text: str


class Server:
    """One judge; safe to build only when there is something to ask, since that looks whether it is up."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self.protocol = PROTOCOLS[config.backend]
        self.address = Address.of(config.url, config.allowed_hosts, self.protocol.chat)
        self.base = self.address.base
        self.key = _key() if self.protocol.keyed else ""
        try:
            within(READY_SECONDS, self._look)
        except (_Failure, TimeoutError) as failure:
            reason = str(failure) or f"no answer within {READY_SECONDS:g} s"
            what = f"no judge answers there: {reason}"
            raise UserError(f"judge.url ({self.base})", what, self.protocol.start, SERVICE) from None

    def ask(self, prompt: str) -> Reply:
        """Put one question; attempts are bounded, and each has `timeout_seconds` for the whole exchange."""
        url = self.base + self.protocol.chat
        for attempt in range(self.config.retries + 1):
            try:
                status, headers, body = self._exchange("POST", url, self.protocol.question(self.config, prompt))
                self._check_status(status, headers, body)
                reply = self.protocol.read(body)
                return Reply(reply.kind, _writable(reply.text))
            except _Failure as failure:
                if attempt == self.config.retries or not failure.again:
                    return Reply("failed", _writable(str(failure)))
                backoff = BACKOFF_SECONDS * 2**attempt if failure.wait is None else failure.wait
                time.sleep(min(backoff, MAX_WAIT_SECONDS))
        raise AssertionError("unreachable: the last attempt returns")

    def _look(self) -> None:
        """Resolve the host, judge what it stands for, and see that HTTP is spoken there, whatever it says."""
        try:
            self.address.check()
        except OSError as error:
            raise _Failure(str(error)) from None
        self._request("GET", self.base + self.protocol.ready, None, READY_SECONDS)

    def _exchange(self, method: str, url: str, payload: Any) -> tuple[int, Mapping[str, str], bytes]:
        seconds = self.config.timeout_seconds
        try:
            return within(seconds, lambda: self._request(method, url, payload, seconds))
        except TimeoutError:
            raise _Failure(f"no whole reply within {seconds:g} s") from None

    def _request(self, method: str, url: str, payload: Any, seconds: float) -> tuple[int, Mapping[str, str], bytes]:
        end = time.monotonic() + seconds
        try:
            with Session() as session:
                session.trust_env = not self.address.loopback  # no proxy stands between this machine and itself
                session.auth = self._authorize  # also keeps requests from looking for a password in ~/.netrc
                plain = {"Accept-Encoding": "identity"}  # what is not packed cannot burst
                with session.request(
                    method, url, json=payload, headers=plain, stream=True, allow_redirects=False, timeout=seconds
                ) as response:
                    return response.status_code, response.headers, self._without_key(_body(response, end))
        except (requests.Timeout, TimeoutError, urllib3.exceptions.ReadTimeoutError):
            raise TimeoutError from None  # the socket's, as long as the whole request's: told alike, whichever is first
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _Failure(_reason(error)) from None

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self.key and self.address.private:
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def _check_status(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Let 200 through; raise _Failure, or UserError where every further question would end the same way."""
        if status == 200:
            return
        if status in (401, 403):
            sent = self.key and self.address.private
            what = f"{self.base} answers {status}; " + ("the key is not accepted" if sent else "no key was sent")
            fix = "set it to a valid key; it is sent over https or to this machine only"
            raise UserError(KEY_VARIABLE, what, fix, SERVICE)
        if status == 404 and b"model" in body.lower():
            what = f"{self.base} does not have this model"
            raise UserError(f"judge.model ({self.config.model})", what, self.protocol.pull(self.config.model), SERVICE)
        if status == 404:
            what = f"nothing at {self.protocol.chat} (status 404)"
            raise UserError(f"judge.url ({self.base})", what, "correct judge.url or judge.backend", SERVICE)
        if 300 <= status < 400:
            raise _Failure(f"status {status}: a redirect, which is not followed", again=False)
        again = status in (408, 429) or status >= 500
        raise _Failure(f"status {status}: {_short(body.decode('utf-8', 'replace'))}", again, _retry_after(headers))

    def _without_key(self, body: bytes) -> bytes:
        return body.replace(self.key.encode(), b"[key]") if self.key else body


class _Failure(Exception):
    """No valid reply: why, whether another attempt may help, and the wait the server asked for."""

    def __init__(self, reason: str, again: bool = True, wait: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.wait = again, wait


# The two protocols ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Protocol:
    chat: str
    ready: str
    keyed: bool
    start: str  # the fix where nothing answers
    pull: Callable[[str], str]  # the fix where the model is missing
    question: Callable[[JudgeConfig, str], Any]
    read: Callable[[bytes], Reply]


def _ollama_question(config: JudgeConfig, prompt: str) -> Any:
    options = {"seed": config.seed, "temperature": config.temperature, "num_ctx": config.num_ctx}
    return {"model": config.model, "messages": _messages(prompt), "options": options, "stream": False}


def _read_ollama(body: bytes) -> Reply:
    """One JSON object or a line each: the pieces of `message.content`, closed by `done: true`."""
    pieces: list[str] = []
    lines = [_object(line) for line in body.splitlines() if line.strip()]
    for line in lines:
        if "error" in line:
            raise _Failure(f"the server reports an error: {_short(line['error'])}")
        pieces.append(_text(line, "message", "content"))
    done = [line.get("done") for line in lines]
    if True not in done or done.index(True) != len(done) - 1:
        raise _Failure("the reply was cut off before its end")  # a `10` may have been the start of a `100`
    return Reply("cut" if lines[-1].get("done_reason") == "length" else "whole", "".join(pieces))


def _openai_question(config: JudgeConfig, prompt: str) -> Any:
    options = {"seed": config.seed, "temperature": config.temperature}
    return {"model": config.model, "messages": _messages(prompt), **options, "stream": False}


def _read_openai(body: bytes) -> Reply:
    """The first choice: `message.refusal` or `finish_reason: content_filter` is a refusal, `length` a cut reply."""
    value = _object(body)
    if value.get("error"):
        raise _Failure(f"the server reports an error: {_short(value['error'])}")
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _Failure("the reply has no choices")
    choice = choices[0]
    message = choice.get("message")
    refusal = message.get("refusal") if isinstance(message, dict) else None
    if refusal or choice.get("finish_reason") == "content_filter":
        return Reply("refused", refusal if isinstance(refusal, str) else "content_filter")
    return Reply("cut" if choice.get("finish_reason") == "length" else "whole", _text(choice, "message", "content"))


PROTOCOLS: Mapping[str, _Protocol] = {
    "ollama": _Protocol(
        chat="/api/chat",
        ready="/api/tags",
        keyed=False,
        start="start it with `ollama serve`",
        pull=lambda model: f"`ollama pull {model}`",
        question=_ollama_question,
        read=_read_ollama,
    ),
    "openai": _Protocol(
        chat="/v1/chat/completions",
        ready="/v1/models",
        keyed=True,
        start="start the server, or correct judge.url",
        pull=lambda _model: "set judge.model to one that the server lists under /v1/models",
        question=_openai_question,
        read=_read_openai,
    ),
}


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise _Failure(f"the reply is not JSON: it begins {_short(body.decode('utf-8', 'replace'))}") from None
    if not isinstance(value, dict):
        raise _Failure(f"the reply is not a JSON object: {_short(value)}")
    return value


def _text(value: dict[str, Any], outer: str, inner: str) -> str:
    part = value.get(outer)
    text = part.get(inner) if isinstance(part, dict) else None
    if not isinstance(text, str):
        raise _Failure(f"the reply has no {outer}.{inner}")
    return text


def _short(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else json.dumps(value)).split())
    return repr(text if len(text) <= 80 else text[:77] + "...")


# HTTP with a size limit ----------------------------------------------------------------------------------------------


def _body(response: requests.Response, end: float) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Failure("the reply is packed, which was not asked for", again=False)
    body = bytearray()
    while piece := response.raw.read1(65536, decode_content=False):
        body += piece
        if len(body) > MAX_REPLY_BYTES:
            raise _Failure(f"the reply is longer than {MAX_REPLY_BYTES} bytes", again=False)
        if time.monotonic() > end:  # nobody waits any more: let the thread end
            raise TimeoutError
    return bytes(body)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _reason(error: Exception) -> str:
    """The same words at every run: an exception's own text holds addresses of objects and ports."""
    if isinstance(error, requests.exceptions.SSLError):
        return "the certificate is not accepted"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "the connection failed"
    return f"the exchange broke off ({type(error).__name__})"


def _writable(text: str) -> str:
    """Text of a server's making that UTF-8 can hold: JSON may carry half a surrogate pair."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(KEY_VARIABLE, "holds a character that no key has", "set it again", USAGE)
    return key
