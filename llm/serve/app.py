"""The HTTP application: OpenAI's API, health, metrics, the API of the page, and the page."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send

from llm.serve import guard, look, protocol
from llm.serve.engine import Piece
from llm.serve.metrics import Metrics
from llm.serve.models import Models
from llm.serve.protocol import ApiError, ChatBody, ClassifyBody, CompletionBody, NextBody, parse
from llm.serve.service import Asked, Limits, Service, decoding, timed_out

PAGE = Path(__file__).parent / "page"
SHOWN = 20  # candidates of the next token
API = ("/v1/models", "/v1/chat/completions", "/v1/completions", "/api/models", "/api/next", "/api/classify")
PATHS = ("/", "/health", "/metrics", *API)


def make_app(models: Models, limits: Limits, metrics: Metrics, host: str) -> Guard:
    """The application. `host` is the address that it is served on."""
    numbers = count(1)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(models, limits, metrics)
        yield
        await asyncio.to_thread(app.state.service.worker.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(ApiError, _error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)

    def service() -> Service:
        return app.state.service  # type: ignore[no-any-return]

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health() -> JSONResponse:
        alive = service().worker.alive
        return JSONResponse({"status": "ok" if alive else "the worker has ended"}, 200 if alive else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name) for name in models.languages]}

    @app.get("/v1/models/{name}")
    async def show_model(name: str) -> dict[str, Any]:
        return _model(service().language(name).name)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = parse(ChatBody, await guard.read_body(request))
        asked, dropped = await asyncio.to_thread(service().chat, body)
        reply = Reply(service(), asked, f"chatcmpl-{next(numbers)}", {"dropped_messages": dropped})
        return await reply.send(request, bool(body.stream), body.usage_wanted)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        body = parse(CompletionBody, await guard.read_body(request))
        asked = await asyncio.to_thread(service().complete, body)
        reply = Reply(service(), asked, f"cmpl-{next(numbers)}", {})
        return await reply.send(request, bool(body.stream), body.usage_wanted)

    @app.get("/api/models")
    async def describe() -> dict[str, Any]:
        configs = {name: language.config for name, language in models.languages.items()}
        languages = [
            {"name": name, "layers": one.n_layer, "heads": one.n_head, "context": one.context_length}
            for name, one in configs.items()
        ]
        classifiers = [{"name": name, "labels": one.labels} for name, one in models.classifiers.items()]
        return {"languages": languages, "classifiers": classifiers}

    @app.post("/api/next")
    async def next_token(request: Request) -> Response:
        body = parse(NextBody, await guard.read_body(request))
        language = service().language(body.model)
        for name, most in (("layer", language.config.n_layer), ("head", language.config.n_head)):
            if (value := getattr(body, name)) > most:
                raise ApiError(400, f"{name} {value}, but the model has {most}", name, "out_of_range")
        ids = await asyncio.to_thread(service().encode, language, body.text, "text")
        context = language.config.context_length
        if len(ids) > context:
            raise ApiError(400, f"{len(ids)} tokens, but the context has {context}", "text", "context_length_exceeded")
        engine = language.engine
        if lacks := engine.lacks(engine.prompt_bytes(len(ids)) + engine.owed()):
            raise no_memory(f"{len(ids):,} tokens need {lacks}; shorten the text", "text")
        decode = language.tokenizer.decode
        work = look.next_token(engine.model, ids, decoding(body, 1), SHOWN, body.layer - 1, body.head - 1, decode)
        return JSONResponse(await _unless_left(request, service().work(work)))

    @app.post("/api/classify")
    async def classify(request: Request) -> Response:
        body = parse(ClassifyBody, await guard.read_body(request))
        classifier = service().classifier(body.model)
        tokenizer = classifier.tokenizer
        text = body.text[: classifier.limit * 128]  # more cannot fit into the tokens that the model reads
        ids = await asyncio.to_thread(classifier.encode, text)
        work = look.classify(classifier.model, classifier.labels, ids, tokenizer.eot, tokenizer.decode)
        return JSONResponse(await _unless_left(request, service().work(work)))

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return Guard(app, host, metrics)


class Reply:
    """Sends the answer to a request, whole or as a stream of server-sent events."""

    def __init__(self, service: Service, asked: Asked, id: str, more: dict[str, Any]) -> None:
        self._service, self._asked, self._id, self._more = service, asked, id, more
        self._chat = id.startswith("chatcmpl")
        self._characters = 0  # sent so far

    async def send(self, request: Request, stream: bool, usage: bool) -> Response:
        if stream:
            headers = {"X-Accel-Buffering": "no"}
            return StreamingResponse(self._events(usage), media_type="text/event-stream", headers=headers)
        return JSONResponse(await _unless_left(request, self._whole()))

    async def _whole(self) -> dict[str, Any]:
        pieces = [piece async for piece in self._service.pieces(self._asked)]
        last = pieces[-1]
        if last.finish not in ("stop", "length"):
            raise self._failed(last)
        scored = [each for piece in pieces for each in piece.scored]
        piece = Piece("".join(piece.text for piece in pieces), scored, last.finish)
        choice = self._choice(piece, "message")
        if self._chat:
            choice["message"] |= {"role": "assistant", "refusal": None}
        return self._envelope([choice], "", usage=self._usage(), **self._more)

    async def _events(self, usage: bool) -> AsyncIterator[str]:
        more = {"usage": None} if usage else {}
        if self._chat:
            start = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            yield self._event(self._envelope([start], ".chunk", **more, **self._more))
        async for piece in self._service.pieces(self._asked):
            if piece.finish not in (None, "stop", "length"):
                yield self._event(self._failed(piece).body)
                return
            yield self._event(self._envelope([self._choice(piece, "delta")], ".chunk", **more))
        if usage:
            yield self._event(self._envelope([], ".chunk", usage=self._usage()))
        yield "data: [DONE]\n\n"

    def _choice(self, piece: Piece, key: str) -> dict[str, Any]:
        decode, logprobs = self._asked.language.tokenizer.decode, None
        if self._asked.logprobs is not None and self._chat:
            logprobs = protocol.chat_logprobs(piece.scored, self._asked.language.tokenizer.bytes_of)
        elif self._asked.logprobs is not None:
            logprobs = protocol.text_logprobs(piece.scored, lambda token: decode([token]), self._characters)
        self._characters += len(piece.text)
        text = {key: {"content": piece.text}} if self._chat else {"text": piece.text}
        return {"index": 0, **text, "logprobs": logprobs, "finish_reason": piece.finish}

    def _envelope(self, choices: list[dict[str, Any]], chunk: str, **more: Any) -> dict[str, Any]:
        kind = "chat.completion" + chunk if self._chat else "text_completion"
        known = {"id": self._id, "object": kind, "created": int(time.time()), "model": self._asked.language.name}
        return {**known, "choices": choices, **more}

    def _usage(self) -> dict[str, int]:
        prompt, completion = len(self._asked.prompt), len(self._asked.tokens)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _failed(self, piece: Piece) -> ApiError:
        if piece.finish == "timeout":
            return timed_out(self._service.limits.seconds)
        if piece.finish == "stopping":
            return stopping()
        if piece.finish == "memory":
            return no_memory(f"{self._asked.lacks}; ask for fewer tokens (max_tokens)")
        return ApiError(500, "the model could not answer; see the server's output", code="internal")

    @staticmethod
    def _event(body: dict[str, Any]) -> str:
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


class Guard:
    """Checks where each request comes from, adds the headers of the page, counts the responses."""

    def __init__(self, app: FastAPI, host: str, metrics: Metrics) -> None:
        self._app, self._host, self._metrics, self.stopping = app, host, metrics, False

    def stop(self) -> None:
        """End the running answers with an error."""
        self.stopping = self._app.state.service.stopping = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def counted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                path = scope["path"] if scope["path"] in PATHS else "other"
                self._metrics.responses.labels(path, message["status"]).inc()
                message["headers"] += [(k.lower().encode(), v.encode()) for k, v in guard.HEADERS.items()]
            await send(message)

        try:
            guard.check_origin(Request(scope), self._host)
        except ApiError as error:
            await _response(error)(scope, receive, counted)
            return
        try:
            await self._app(scope, receive, counted)
        except asyncio.CancelledError:  # the server ends, and does not wait any longer
            if not started:
                await _response(stopping())(scope, receive, counted)


async def _unless_left(request: Request, work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """The result of `work`, which is cancelled if the client leaves."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client left", code="client_left")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llm"}


def stopping() -> ApiError:
    """The error of a request that the end of the server cuts off."""
    return ApiError(503, "the server is stopping", code="stopping")


def no_memory(what: str, param: str | None = None) -> ApiError:
    """The error of a request that needs more memory than is free."""
    return ApiError(503, f"{what}, or try again later", param, "insufficient_memory")


def _response(error: ApiError) -> JSONResponse:
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body, error.status, headers)


async def _error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette answers a POST to any unknown path with 405, as the page could be read there."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code not in (404, 405):
        return _response(ApiError(error.status_code, str(error.detail)))
    status, code = (405, "method_not_allowed") if path in PATHS else (404, "not_found")
    message = f"{request.method} {path} is not offered; there are {', '.join(PATHS)}"
    return _response(ApiError(status, message, code=code))


async def _bug(_request: Request, error: Exception) -> Response:
    return _response(ApiError(500, "internal error; see the server's output", code="internal"))
