"""Requests that are decoded together: they wait, join the running batch, send pieces of text, and leave."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from llm.generate.config import DecodingConfig
from llm.generate.decoding import choose_each, generator_on
from llm.model import memory
from llm.model.gpt import GPT
from llm.runtime import machine
from llm.serve.batch import Batch
from llm.serve.text import TextStream

PREFILL = 512  # tokens of prompts in one step, beyond the first prompt; more would hold up the running answers
LARGE = 64 << 20  # bytes; less is not looked for, as it takes time to find out what is free
Finish = Literal["stop", "length", "cancelled", "timeout", "memory", "stopping", "error"]


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
    lacks: str = ""  # why it cannot run, if it ends for lack of memory
    tokens: list[int] = field(default_factory=list)
    submitted: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    _scored: list[Scored] = field(default_factory=list)
    _generator: torch.Generator | None = None

    @property
    def most(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return len(self.prompt) + self.decoding.max_new_tokens

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


class Memory:
    """The memory of a device, shared by engines. One thread steps them all."""

    def __init__(self, device: str) -> None:
        self._device, self.engines = device, list[Engine]()

    @property
    def used(self) -> bool:
        """Whether a request runs, so that memory will become free."""
        return any(engine.running for engine in self.engines)

    def free(self, engine: Engine) -> float:
        """Bytes for `engine`: what is free, without what the running requests of the others may still need."""
        found = machine.available(self._device)
        owed = sum(other.owed() for other in self.engines if other is not engine)
        return math.inf if found is None else found - owed


class Engine:
    """Decodes the requests of one model. `step` belongs to one thread; others may append to `waiting`.

    A request joins if there is memory for all that it may write. So the running ones never lack memory.
    """

    def __init__(
        self,
        model: GPT,
        stops: frozenset[int],
        rows: int,
        observe: Callable[[int], None] | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.model, self.stops, self._observe = model.eval(), stops, observe
        self.memory = memory or Memory(model.transformer.wte.weight.device.type)
        self.memory.engines.append(self)
        self._held: Request | None = None  # it waits for memory
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # by row of the batch
        self._rows = rows
        self._batch: Batch | None = Batch(model, rows)  # None after an error, which may be one of memory
        self._sent: list[tuple[Request, Piece]] = []  # of this step; kept if the step fails

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def step(self) -> list[tuple[Request, Piece]]:
        """Give every running request one token, and let waiting ones join; returns what can be sent."""
        batch = self._batch = self._batch or Batch(self.model, self._rows)
        self._leave_expired(batch)
        if self.running:
            logits = batch.step([request.tokens[-1] for request in self.running])
            self._drop(batch, self._take(self.running, logits))
        self._join(batch)
        sent, self._sent = self._sent, []
        return sent

    def fail(self) -> list[tuple[Request, Piece]]:
        """End all requests after an error and start over; returns what can be sent, also of the step that failed."""
        requests, self.running, self._batch = self.running, [], None
        while self.waiting:
            requests.append(self.waiting.popleft())
        sent, self._sent = self._sent, []
        ended = {request for request, piece in sent if piece.finish}
        return [*sent, *((request, _error(request)) for request in requests if request not in ended)]

    def _take(self, requests: list[Request], logits: Tensor) -> list[Request]:
        """Each request takes its token from logits (B, V); returns those that end."""
        generators = [request.generator(logits.device) for request in requests]
        tokens = choose_each(logits, [request.decoding for request in requests], generators).tolist()
        if self._observe:
            self._observe(len(requests))
        ended = []
        for row, request in enumerate(requests):
            if piece := request.take(tokens[row], logits[row], self.stops):
                self._sent.append((request, piece))
                ended += [request] if piece.finish else []
        return ended

    def _join(self, batch: Batch) -> None:
        """Compute the first waiting prompts, as many as fit into the batch and PREFILL, those of one width together."""
        groups: dict[int, list[Request]] = {}
        computed, most = 0, list[int]()
        for request in list(self.waiting)[: batch.rows - batch.size]:
            width = batch.width(request.prompt)
            if computed and computed + width > PREFILL:
                break
            request.lacks = self._lacks(batch, request, most)
            if request.lacks:
                if most or self.memory.used:
                    break
                self.waiting.remove(request)
                self._sent.append((request, request.end("memory")))
                continue
            most.append(request.most)
            groups.setdefault(width, []).append(request)
            computed += width
        for group in groups.values():
            self.running += group
            for request in group:
                self.waiting.remove(request)
            logits = batch.add([one.prompt for one in group], [one.most for one in group])
            self._drop(batch, self._take(group, logits))

    def owed(self, *others: int) -> int:
        """Bytes that the running requests may still need, and others of so many tokens."""
        cache = None if self._batch is None else self._batch.cache
        return 0 if cache is None else max(0, cache.most_bytes(*others) - cache.nbytes)

    def prompt_bytes(self, tokens: int) -> int:
        """The memory to compute a prompt of so many tokens, beside the cache."""
        fused = torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
        return memory.first_pass(self.model.config, tokens, self.model.config.attention == "eager" or not fused)

    def lacks(self, needed: int, again: bool = True) -> str:
        """An empty text if so many bytes are free; else how many are needed, and how many are free.

        With `again`, freed memory is given back to the system first, which takes time.
        """
        if needed <= LARGE or needed <= (free := self.memory.free(self)):
            return ""
        if again:
            machine.give_back()
            free = self.memory.free(self)
        sizes = f"{machine.readable(needed)} of memory, {machine.readable(max(0, int(free)))} are free"
        return "" if needed <= free else sizes

    def _lacks(self, batch: Batch, request: Request, joining: Sequence[int]) -> str:
        """What `request` lacks to join together with others of so many tokens; an empty text if there is memory."""
        again = request is not self._held or not self.memory.used
        first = self.prompt_bytes(max(PREFILL, batch.width(request.prompt)))
        found = self.lacks(first + self.owed(*joining, request.most), again)
        self._held = request if found else None
        size = f"{len(request.prompt):,} tokens with an answer of {request.decoding.max_new_tokens:,}"
        return found and f"{size} need {found}"

    def _leave_expired(self, batch: Batch) -> None:
        expired = []
        for request in [*self.waiting, *self.running]:
            if finish := request.expired():
                self._sent.append((request, request.end(finish)))
                expired.append(request)
        for request in set(expired).difference(self.running):
            self.waiting.remove(request)
        self._drop(batch, expired)

    def _drop(self, batch: Batch, ended: Sequence[Request]) -> None:
        """Remove requests from the batch, whose last row takes the place of one that leaves."""
        for row in reversed(range(len(self.running))):
            if self.running[row] in ended:
                batch.remove(row)
                last = self.running.pop()
                if row < len(self.running):
                    self.running[row] = last


def _error(request: Request) -> Piece:
    """The last piece after an error; without the text that is kept back, if that is the error."""
    try:
        return request.end("error")
    except Exception:
        return Piece("", [], "error")


def score(logits: Tensor, token: int, top: int) -> Scored:
    """The log-probability of `token` before temperature, top-k and top-p, and the `top` most likely tokens."""
    logprobs = logits.float().log_softmax(dim=-1)
    best = logprobs.topk(min(top, len(logprobs))) if top else None
    pairs = [] if best is None else list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
    return Scored(token, float(logprobs[token]), pairs)
