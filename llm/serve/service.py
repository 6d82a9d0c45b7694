"""Between HTTP and the worker: requests go in, pieces of their answers come out as asyncio events."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from llm.common.errors import UserError
from llm.generate.config import DecodingConfig
from llm.serve.dialog import LONGEST_TOKEN, Message, TooLong
from llm.serve.engine import Piece, Request
from llm.serve.look import Work
from llm.serve.metrics import Metrics
from llm.serve.models import Language, Models, TextClassifier
from llm.serve.protocol import ApiError, ChatBody, Completing, CompletionBody, Decoding
from llm.serve.text import TextStream
from llm.serve.worker import Full, Worker

LATE = 10.0  # seconds after its deadline that a request is waited for: a step may take some
LOOK = 1.0  # seconds between two looks whether the worker lives
RESERVED = 4  # with truncation, 1 / RESERVED of the context is left for the answer
M = TypeVar("M")


@dataclass(frozen=True)
class Limits:
    """Limits of a server."""

    queue: int  # requests that may wait
    seconds: float  # from a request to its end


@dataclass(eq=False, kw_only=True)
class Asked(Request):
    """A request of a client, with the pieces of its answer that have come."""

    language: Language
    events: asyncio.Queue[Piece] = field(default_factory=asyncio.Queue)


class Service:
    """Answers requests with the models. Created inside the event loop that uses it."""

    def __init__(self, models: Models, limits: Limits, metrics: Metrics) -> None:
        self.models, self.limits, self.metrics = models, limits, metrics
        self.stopping = False
        self._loop = asyncio.get_running_loop()
        self.worker = Worker(models.engines, self._deliver, limits.queue)
        metrics.watch("llm_running_requests", "Requests that are being decoded", lambda: self.worker.running)
        metrics.watch("llm_waiting_requests", "Requests that wait", lambda: self.worker.waiting)

    def language(self, name: str) -> Language:
        """A language model by name; raises ApiError 404."""
        return _model(self.models.languages, name)

    def classifier(self, name: str) -> TextClassifier:
        """A classifier by name; raises ApiError 404."""
        return _model(self.models.classifiers, name)

    def chat(self, body: ChatBody) -> tuple[Asked, int]:
        """Queue the answer to a conversation; also returns how many messages were left out. Raises ApiError."""
        language = self.language(body.model)
        messages = [Message("system" if one.role == "developer" else one.role, one.text) for one in body.messages]
        if messages[-1].role != "user":
            raise ApiError(400, "the last message must be the user's", "messages", "invalid_messages")
        auto, lengths = body.truncation == "auto", [len(message.text) for message in messages]
        self._check_length(language, max(lengths) if auto else sum(lengths), "messages")
        context, dropped = language.config.context_length, 0
        try:
            if auto:
                ids, dropped = language.dialog.fit(messages, context - context // RESERVED)
            else:
                ids = language.dialog.encode(messages)
        except TooLong as error:
            raise _too_long(context, "messages", error.what) from None
        except UserError as error:  # of the chat template
            raise ApiError(400, error.what, "messages", "invalid_messages") from None
        text = language.dialog.stream(body.stops)
        most = body.max_completion_tokens or body.max_tokens
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        return self._submit(language, ids, body, most or context, text, logprobs, "messages"), dropped

    def complete(self, body: CompletionBody) -> Asked:
        """Queue the continuation of a text, or of token ids."""
        language = self.language(body.model)
        if isinstance(body.prompt, str):
            ids = self.encode(language, body.prompt, "prompt")
        elif max(ids := body.prompt) >= language.config.vocab_size:
            what = f"token {max(ids)} is outside the vocabulary of {language.config.vocab_size}"
            raise ApiError(400, what, "prompt", "invalid_token")
        text = TextStream(language.tokenizer.decode, body.stops)
        return self._submit(language, ids, body, body.max_tokens or 16, text, body.logprobs, "prompt")

    def encode(self, language: Language, text: str, param: str) -> list[int]:
        """Token ids of a text that the model reads alone, as in `llm generate`. Raises ApiError for an empty one."""
        if not text:
            raise ApiError(400, "the text is empty", param, "empty")
        self._check_length(language, len(text), param)
        return language.tokenizer.encode_prompt(text)

    async def pieces(self, asked: Asked) -> AsyncIterator[Piece]:
        """The pieces of an answer. If the caller leaves before the last one, the request is cancelled."""
        try:
            while True:
                piece = await self._next(asked)
                yield piece
                if piece.finish:
                    return
        finally:
            asked.cancelled = True  # no effect if it has ended

    async def _next(self, asked: Asked) -> Piece:
        """The next piece; one that ends the answer if the worker or the server ends, or LATE after the deadline."""
        while not self.stopping and self.worker.alive and time.monotonic() < asked.deadline + LATE:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    return await asked.events.get()
        if self.stopping:
            return Piece("", [], "stopping")
        if not asked.events.empty():
            return asked.events.get_nowait()
        return Piece("", [], "timeout" if self.worker.alive else "error")

    async def work(self, work: Work) -> dict[str, Any]:
        """Do other work in the worker's thread. Raises ApiError if the queue is full or it takes too long."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.wrap_future(self.worker.work(work))
        except Full:
            raise self._busy() from None
        except TimeoutError:
            raise timed_out(self.limits.seconds) from None

    def _submit(
        self,
        language: Language,
        ids: list[int],
        body: Completing,
        most: int,
        text: TextStream,
        logprobs: int | None,
        param: str,
    ) -> Asked:
        room = language.config.context_length - len(ids)
        if room < 1:
            raise _too_long(language.config.context_length, param, f"{len(ids)} tokens leave no room for an answer")
        seed = secrets.randbits(32) if body.seed is None else body.seed
        deadline = time.monotonic() + self.limits.seconds
        asked = Asked(ids, decoding(body, min(most, room)), seed, text, logprobs, deadline, language=language)
        try:
            self.worker.submit(language.engine, asked)
        except Full:
            raise self._busy() from None
        return asked

    def _busy(self) -> ApiError:
        return ApiError(429, f"{self.limits.queue} requests wait already", code="queue_full", type="rate_limit_error")

    def _check_length(self, language: Language, characters: int, param: str) -> None:
        context = language.config.context_length
        if characters > context * LONGEST_TOKEN:
            raise _too_long(context, param, f"{characters} characters are too many")

    def _deliver(self, sent: list[tuple[Request, Piece]]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._put, sent)

    def _put(self, sent: list[tuple[Request, Piece]]) -> None:
        for asked, piece in sent:
            assert isinstance(asked, Asked)
            asked.events.put_nowait(piece)
            if piece.finish:
                self.metrics.ended(asked.language.name, asked, piece.finish)


def decoding(body: Decoding, tokens: int) -> DecodingConfig:
    """The protocol's values as a DecodingConfig."""
    temperature = 1.0 if body.temperature is None else float(body.temperature)
    return DecodingConfig(tokens, temperature, body.top_k, body.top_p)


def timed_out(seconds: float) -> ApiError:
    """The error of a request that took too long."""
    return ApiError(504, f"the answer was not finished after {seconds:g} s", code="timeout", type="timeout")


def _too_long(context: int, param: str, what: str) -> ApiError:
    message = f"the model's context has {context} tokens: {what}"
    return ApiError(400, message, param, "context_length_exceeded")


def _model(known: dict[str, M], name: str) -> M:
    if name not in known:
        there = f"there are: {', '.join(known)}" if known else "there is none of this kind"
        raise ApiError(404, f"the model {name!r:.100} does not exist; {there}", "model", "model_not_found")
    return known[name]
