"""Metrics of a server in Prometheus' format."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llm.serve.engine import Finish, Request

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counts in a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.responses = Counter("llm_responses", "HTTP responses", ["path", "status"], registry=registry)
        self._requests = Counter("llm_requests", "Ended requests", ["model", "finish"], registry=registry)
        self._tokens = Counter("llm_tokens", "Tokens read and written", ["model", "kind"], registry=registry)
        histogram = partial(Histogram, labelnames=["model"], registry=registry)
        self._first = histogram("llm_first_token_seconds", "From the request to its first token", buckets=SECONDS)
        self._whole = histogram("llm_request_seconds", "From the request to its end", buckets=SECONDS)
        self._batch = histogram("llm_batch_size", "Requests in a decoding step", buckets=SIZES)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show a value that is read on demand."""
        Gauge(name, about, registry=self._registry).set_function(value)

    def step(self, model: str, size: int) -> None:
        """A model gave `size` requests a token."""
        self._batch.labels(model).observe(size)

    def ended(self, model: str, request: Request, finish: Finish) -> None:
        self._requests.labels(model, finish).inc()
        self._tokens.labels(model, "prompt").inc(len(request.prompt))
        self._tokens.labels(model, "completion").inc(len(request.tokens))
        self._whole.labels(model).observe(time.monotonic() - request.submitted)
        if request.first_token is not None:
            self._first.labels(model).observe(request.first_token - request.submitted)

    def text(self) -> bytes:
        return generate_latest(self._registry)
