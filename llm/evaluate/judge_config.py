"""The section `judge` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.http import is_plain_url
from llm.common.params import Problem, at_least_zero, positive


@dataclass(frozen=True)
class JudgeConfig:
    """All settings that affect a score; none of them comes from the environment."""

    backend: Literal["reference", "ollama", "openai"]  # reference: offline, a comparison with the reference answer
    prompt: Literal["book", "guarded"]  # guarded: with markers around the answer
    model: str
    url: str  # of the server; /api/chat or /v1/chat/completions is appended
    seed: int
    temperature: float
    num_ctx: int  # the judge's context in tokens
    timeout_seconds: float  # to connect, to wait for the reply, and to read it
    retries: int
    max_failed: int  # requests without a valid reply; one more ends the stage with code 4
    min_coverage: float  # scored / items; a lower one ends the stage with code 4

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "num_ctx", "timeout_seconds")
        yield from at_least_zero(self, "temperature", "retries", "max_failed", "min_coverage")
        for name, highest in (("timeout_seconds", 3600), ("retries", 10), ("min_coverage", 1)):
            if getattr(self, name) > highest:
                yield name, f"{getattr(self, name)} is above {highest}", f"set it to {highest} or less"
        if not self.model.strip():
            yield "model", f"{self.model!r} is not the name of a model", "write its name, such as llama3"
        if not is_plain_url(self.url) or set(self.url) & set("?#"):
            shown = self.url.rpartition("@")[2]  # the part before it may contain a password
            what = f"{shown!r} is not an http(s) URL without user, password, query or fragment"
            yield "url", what, "write a URL such as http://127.0.0.1:11434; a key is read from OPENAI_API_KEY"
