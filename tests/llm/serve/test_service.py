"""Between HTTP and the worker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from llm.generate.config import greedy
from llm.serve import service
from llm.serve.engine import Piece
from llm.serve.metrics import Metrics
from llm.serve.models import Models
from llm.serve.service import Asked, Limits, Service
from llm.serve.text import TextStream


@pytest.mark.parametrize(("dies", "finish"), [(True, "error"), (False, "timeout")])
def test_a_client_does_not_wait_for_a_worker_that_says_nothing(
    dies: bool, finish: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LATE", 0.1)
    monkeypatch.setattr(service, "LOOK", 0.02)

    async def pieces() -> list[Piece]:
        made = Service(Models({}, {}), Limits(1, 1.0), Metrics())
        nothing: Any = None
        deadline = time.monotonic() + (60 if dies else 0)
        asked = Asked([1], greedy(3), 0, TextStream(str), deadline=deadline, language=nothing)
        asked.events.put_nowait(Piece("a", [], None))
        if dies:
            made.worker.close()
        found = [piece async for piece in made.pieces(asked)]
        assert asked.cancelled
        if not dies:
            made.worker.close()
        return found

    assert asyncio.run(asyncio.wait_for(pieces(), 5)) == [Piece("a", [], None), Piece("", [], finish)]
