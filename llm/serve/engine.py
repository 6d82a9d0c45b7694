"""Requests that are decoded together: they wait, join the running batch, send pieces of text, and leave."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from llm.generate.decoding import DecodingConfig, choose_each, generator_on
from llm.model.gpt import GPT
from llm.serve.batch import Batch
from llm.serve.text import TextStream

PREFILL = 512  # tokens of prompts in one step, beyond the first prompt; more would hold up the running answers
Finish = Literal["stop", "length", "cancelled", "timeout", "error"]


@dataclass(frozen=True)
class Scored:
    """A token with its log-probability, and the most likely tokens at its place."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Piece:
    """A part of an answer: text, the tokens behind it if they were asked for, and in the last piece why it ends."""

    text: str
    scored: list[Scored]
    finish: Finish | None


@dataclass(eq=False)
class Request:
    """A prompt to continue. `decoding.max_new_tokens` must fit into the context."""

    prompt: Sequence[int]
    decoding: DecodingConfig
    seed: int
    text: TextStream
    logprobs: int | None = None  # report each token, with this many alternatives
    deadline: float = float("inf")  # in time.monotonic()'s seconds
    cancelled: bool = False  # set by any thread; the request leaves at the next step
    tokens: list[int] = field(default_factory=list)
    submitted: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    _scored: list[Scored] = field(default_factory=list)
    _generator: torch.Generator | None = None

    def generator(self, device: torch.device) -> torch.Generator:
        """The generator that samples the tokens: they depend on the seed and the number of tokens so far only."""
        if self._generator is None:
            self._generator = generator_on(device, self.seed)
        return self._generator

    def take(self, token: int, logits: Tensor, stops: frozenset[int]) -> Piece | None:
        """Take the next token, which was chosen from its logits (V,); returns what can be sent."""
        self.first_token = self.first_token or time.monotonic()
        if token in stops:
            return self.end("stop")
        self.tokens.append(token)
        if self.logprobs is not None:
            self._scored.append(score(logits, token, self.logprobs))
        text = self.text.push(token)
        if self.text.stopped:
            return self.end("stop", text)
        if len(self.tokens) >= self.decoding.max_new_tokens:
            return self.end("length", text)
        if not text:
            return None
        piece, self._scored = Piece(text, self._scored, None), []
        return piece

    def end(self, finish: Finish, text: str = "") -> Piece:
        """The last piece."""
        return Piece(text + self.text.finish(), self._scored, finish)

    def expired(self) -> Finish | None:
        """Why the request must leave now, if so."""
        if self.cancelled:
            return "cancelled"
        return "timeout" if time.monotonic() > self.deadline else None


class Engine:
    """Decodes the requests of one model. `step` belongs to one thread; others may append to `waiting`."""

    def __init__(self, model: GPT, stops: frozenset[int], rows: int, observe: Callable[[int], None] | None = None):
        self.model, self.stops, self._observe = model.eval(), stops, observe
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # by row of the batch
        self._batch = Batch(model, rows)

    @property
    def busy(self) -> bool:
        """Whether there is something to do."""
        return bool(self.waiting or self.running)

    def step(self) -> list[tuple[Request, Piece]]:
        """Give every running request one token, and let waiting ones join; returns what can be sent."""
        sent = self._leave_expired()
        if self.running:
            logits = self._batch.step([request.tokens[-1] for request in self.running])
            ended = self._take(list(self.running), logits, sent)
            for row in sorted((self.running.index(request) for request in ended), reverse=True):
                self._remove(row)
        return sent + self._join()

    def fail(self) -> list[tuple[Request, Piece]]:
        """End all requests after an error and start over."""
        requests = [*self.running, *self.waiting]
        self.waiting.clear()
        self.running.clear()
        self._batch = Batch(self.model, self._batch.rows)
        return [(request, request.end("error")) for request in requests]

    def _take(self, requests: list[Request], logits: Tensor, sent: list[tuple[Request, Piece]]) -> list[Request]:
        """Each request takes its token from logits (B, V); returns those that end."""
        generators = [request.generator(logits.device) for request in requests]
        tokens = choose_each(logits, [request.decoding for request in requests], generators).tolist()
        if self._observe:
            self._observe(len(requests))
        pieces = [r.take(tokens[row], logits[row], self.stops) for row, r in enumerate(requests)]
        sent += [(request, piece) for request, piece in zip(requests, pieces, strict=True) if piece]
        return [request for request, piece in zip(requests, pieces, strict=True) if piece and piece.finish]

    def _join(self) -> list[tuple[Request, Piece]]:
        """Compute the first waiting prompts, as many as fit into the batch and PREFILL, those of one width together."""
        sent: list[tuple[Request, Piece]] = []
        groups: dict[int, list[Request]] = {}
        computed, free = 0, self._batch.rows - self._batch.size
        while self.waiting and free:
            width = self._batch.width(self.waiting[0].prompt)
            if computed and computed + width > PREFILL:
                break
            groups.setdefault(width, []).append(self.waiting.popleft())
            computed, free = computed + width, free - 1
        for group in groups.values():
            first = len(self.running)
            self.running += group
            ended = self._take(group, self._batch.add([request.prompt for request in group]), sent)
            for row in reversed(range(first, first + len(group))):
                if self.running[row] in ended:
                    self._remove(row)
        return sent

    def _leave_expired(self) -> list[tuple[Request, Piece]]:
        sent = []
        for request in [request for request in list(self.waiting) if request.expired()]:
            self.waiting.remove(request)
            sent.append((request, request.end(request.expired() or "cancelled")))
        for row in reversed(range(len(self.running))):
            if finish := self.running[row].expired():
                sent.append((self.running[row], self.running[row].end(finish)))
                self._remove(row)
        return sent

    def _remove(self, row: int) -> None:
        self._batch.remove(row)
        last = self.running.pop()
        if row < len(self.running):
            self.running[row] = last


def score(logits: Tensor, token: int, top: int) -> Scored:
    """The log-probability of `token` before temperature, top-k and top-p, and the `top` most likely tokens."""
    logprobs = logits.float().log_softmax(dim=-1)
    best = logprobs.topk(min(top, len(logprobs))) if top else None
    pairs = [] if best is None else list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Scored(token, float(logprobs[token]), pairs)
