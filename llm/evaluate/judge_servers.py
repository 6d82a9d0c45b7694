"""Judges on a server: send a prompt, get a `Reply` (section 7.8).

The protocols are /api/chat of Ollama and /v1/chat/completions of OpenAI, which many servers support.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import requests

from llm.common.errors import SERVICE, USAGE, UserError
from llm.common.http import Failure, read_body, retry, send, status_failure
from llm.common.urls import is_loopback
from llm.evaluate.judge_config import JudgeConfig

KEY_VARIABLE = "OPENAI_API_KEY"
SHORTEST_KEY = 8  # characters; a shorter one, such as "none" for a server without keys, is no secret
READY_SECONDS = 4.0  # a server that is down is reported within 5
MAX_REPLY_BYTES = 1 << 20


@dataclass(frozen=True)
class Reply:
    """The result of one request; `text` is the text of the judge or, for `failed`, the reason.

    The judge may repeat the key: `masked` makes the text that can be shown or kept.
    """

    kind: Literal["whole", "cut", "refused", "failed"]  # cut: the model reached its length limit
    text: str


class Server:
    """A connection to a judge; the constructor checks that the server answers.

    Raises UserError if no further request can succeed: the server is down, lacks the model, or refuses the key.
    """

    def __init__(self, config: JudgeConfig, schema: Mapping[str, Any]) -> None:
        self.config = config
        self.schema = schema  # of the reply, sent if `structured`
        self.protocol = PROTOCOLS[config.backend]
        base = config.url.rstrip("/").removesuffix(self.protocol.chat)
        self.base = base.removesuffix("/v1") if self.protocol.chat.startswith("/v1/") else base
        self.key = _key() if self.protocol.keyed else ""
        try:
            self._request("GET", self.protocol.ready, None, READY_SECONDS)
        except Failure as failure:
            what = f"no judge answers there: {failure}"
            raise UserError(f"judge.url ({self.base})", what, self.protocol.start, SERVICE) from None

    def ask(self, prompt: str) -> Reply:
        """Send a prompt, with retries after temporary failures; each request may take `timeout_seconds`."""
        try:
            reply = retry(self.config.retries + 1, partial(self._ask_once, prompt))
        except Failure as failure:
            reply = Reply("failed", str(failure))
        return Reply(reply.kind, reply.text.encode("utf-8", "replace").decode())  # JSON may contain lone surrogates

    def _ask_once(self, prompt: str) -> Reply:
        messages = [{"role": "user", "content": prompt}]
        payload = {"model": self.config.model, "messages": messages, "stream": False}
        payload |= self.protocol.options(self.config, self.schema)
        response, body = self._request("POST", self.protocol.chat, payload, self.config.timeout_seconds)
        self._check_status(response, body)
        return self.protocol.read(body)

    def _request(self, method: str, path: str, payload: Any, seconds: float) -> tuple[requests.Response, bytes]:
        body = bytearray()
        options = {"json": payload, "auth": self._authorize, "allow_redirects": False}
        with send(method, self.base + path, seconds, **options) as response:
            if response.is_redirect:
                raise Failure(f"status {response.status_code}: redirects are not followed")
            for piece in read_body(response, seconds):
                body += piece
                if len(body) > MAX_REPLY_BYTES:
                    raise Failure(f"the reply is longer than {MAX_REPLY_BYTES} bytes")
        return response, bytes(body)

    def _sends_key(self) -> bool:
        return bool(self.key) and (self.base.lower().startswith("https:") or is_loopback(self.base))

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the key. With this hook, requests does not read passwords from ~/.netrc."""
        if self._sends_key():
            request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    def _check_status(self, response: requests.Response, body: bytes) -> None:
        """Raise Failure if the status is not 200, or UserError if all further requests would fail as well."""
        status, text = response.status_code, body.decode("utf-8", "replace")
        if status == 200:
            return
        if status in (401, 403) and not self.protocol.keyed:
            fix = "allow this machine in OLLAMA_ORIGINS or in the proxy before the server, or correct judge.url"
            raise UserError(f"judge.url ({self.base})", f"answers {status}: {_short(text)}", fix, SERVICE)
        if status in (401, 403):
            what = "the key is not accepted" if self._sends_key() else "no key was sent"
            fix = "set it to a valid key; it is sent over https or to this machine only"
            raise UserError(KEY_VARIABLE, f"{self.base} answers {status}; {what}", fix, SERVICE)
        if status == 404 and "model" in text.lower():
            what = f"{self.base} does not have this model"
            raise UserError(f"judge.model ({self.config.model})", what, self.protocol.pull(self.config.model), SERVICE)
        if status == 404:
            what = f"{self.protocol.chat} does not exist (status 404)"
            raise UserError(f"judge.url ({self.base})", what, "correct judge.url or judge.backend", SERVICE)
        if status in (400, 422):
            for name, words, off in SETTINGS:
                value = getattr(self.config, name)
                sent = bool(value) if name == "structured" else value is not None
                if sent and any(word in text for word in words):
                    what = f"{self.base} refuses it: {_short(text)}"
                    raise UserError(f"judge.{name} ({value})", what, f"set judge.{name} to {off}", SERVICE)
        raise status_failure(response, f": {_short(text)}")


# Settings that a server may refuse: the words of its message, and the value that sends nothing.
SETTINGS = (
    ("structured", ("response_format", "json_schema", "format"), "false"),
    ("temperature", ("temperature",), "null"),
    ("reasoning_effort", ("reasoning_effort", "think"), "null"),
    ("think", ("think", "chat_template_kwargs"), "null"),
)


# The two protocols ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Protocol:
    chat: str  # path of the requests
    ready: str  # path that shows whether the server is up
    keyed: bool
    start: str  # the fix if nothing answers
    pull: Callable[[str], str]  # the fix if the model is missing
    options: Callable[[JudgeConfig, Mapping[str, Any]], dict[str, Any]]  # of the settings and the schema of the reply
    read: Callable[[bytes], Reply]


def _read_ollama(body: bytes) -> Reply:
    """Read one JSON object, or one per line: pieces of `message.content`, the last with `done: true`."""
    lines = [_object(line) for line in body.splitlines() if line.strip()]
    pieces = [_content(line) for line in lines]
    done = [line.get("done") for line in lines]
    if True not in done or done.index(True) != len(done) - 1:
        raise _invalid("the reply is incomplete")  # `10` may be the start of `100`
    return Reply("cut" if lines[-1].get("done_reason") == "length" else "whole", "".join(pieces))


def _read_openai(body: bytes) -> Reply:
    """Read the first choice; `message.refusal` or `finish_reason: content_filter` is a refusal."""
    choices = _object(body).get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _invalid("the reply has no choices")
    choice = choices[0]
    message, reason = choice.get("message"), choice.get("finish_reason")
    refusal = message.get("refusal") if isinstance(message, dict) else None
    if refusal or reason == "content_filter":
        return Reply("refused", refusal if isinstance(refusal, str) else "content_filter")
    if reason == "length" and isinstance(message, dict) and message.get("content") is None:
        return Reply("cut", "")  # all tokens went into thoughts
    return Reply("cut" if reason == "length" else "whole", _content(choice))


def _ollama_options(config: JudgeConfig, schema: Mapping[str, Any]) -> dict[str, Any]:
    """`options`, `format` (a JSON schema) and `think` (a switch, or a level for models that have levels)."""
    options = {"seed": config.seed, "temperature": config.temperature, "num_ctx": config.num_ctx}
    think = config.think if config.reasoning_effort is None else config.reasoning_effort
    return _given(options=_given(**options), format=schema if config.structured else None, think=think)


def _openai_options(config: JudgeConfig, schema: Mapping[str, Any]) -> dict[str, Any]:
    """`response_format` and `reasoning_effort`; `think` is a switch of the chat template (llama.cpp, vLLM, SGLang)."""
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
    return _given(
        seed=config.seed,
        temperature=config.temperature,
        reasoning_effort=config.reasoning_effort,
        response_format=form if config.structured else None,
        chat_template_kwargs=None if config.think is None else {"enable_thinking": config.think},
    )


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


PROTOCOLS: Mapping[str, _Protocol] = {
    "ollama": _Protocol(
        chat="/api/chat",
        ready="/api/tags",
        keyed=False,
        start="start it with `ollama serve`",
        pull=lambda model: f"`ollama pull {model}`",
        options=_ollama_options,
        read=_read_ollama,
    ),
    "openai": _Protocol(
        chat="/v1/chat/completions",
        ready="/v1/models",
        keyed=True,
        start="start the server, or correct judge.url",
        pull=lambda _model: "set judge.model to one that the server lists under /v1/models",
        options=_openai_options,
        read=_read_openai,
    ),
}


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _invalid(f"the reply is not a JSON object: {_short(body.decode('utf-8', 'replace'))}")
    if value.get("error"):
        raise _invalid(f"the server reports an error: {_short(value['error'])}")
    return value


def _content(value: dict[str, Any]) -> str:
    message = value.get("message")
    text = message.get("content") if isinstance(message, dict) else None
    if not isinstance(text, str):
        raise _invalid("the reply has no message.content")
    return text


def _invalid(what: str) -> Failure:
    return Failure(what, again=True)


def masked(text: str) -> str:
    """The text with `[key]` in place of the key. A score is read from the text itself, which this could change."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    return text.replace(key, "[key]") if len(key) >= SHORTEST_KEY else text


def _short(value: Any) -> str:
    text = " ".join(masked(value if isinstance(value, str) else json.dumps(value)).split())
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _key() -> str:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable():
        raise UserError(KEY_VARIABLE, "contains an invalid character", "set it again", USAGE)
    return key
