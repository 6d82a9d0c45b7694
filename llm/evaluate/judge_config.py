"""The section `judge` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, at_least_zero, positive
from llm.common.urls import is_plain_url
from llm.evaluate.judge_replies import Rule


@dataclass(frozen=True)
class JudgeConfig:
    """All settings that affect a score; none of them comes from the environment."""

    backend: Literal["reference", "ollama", "openai"]  # reference: offline, a comparison with the reference answer
    prompt: Literal["book", "guarded"]  # guarded: with markers around the answer
    reply: Rule  # how a reply is read: judge_replies.py
    structured: bool  # ask the server for a JSON object by a schema
    think: bool | None  # whether the model may think first; None: not sent
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None  # None: not sent
    model: str
    url: str  # of the server; /api/chat or /v1/chat/completions is appended
    seed: int
    temperature: float | None  # None: not sent, the server uses its own
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
        if self.structured and self.prompt == "book" and self.backend != "reference":
            what = "true, but judge.prompt is book, which asks for the number alone"
            yield "structured", what, "set judge.prompt to guarded, or structured to false"
        if self.think is not None and self.reasoning_effort is not None:
            yield "think", f"{self.think}, but reasoning_effort is set, too", "set one of them to null"
        if self.backend == "ollama" and self.reasoning_effort in ("none", "minimal", "xhigh"):
            what = f"{self.reasoning_effort}, which Ollama does not have"
            yield "reasoning_effort", what, "set it to low, medium or high, or set think to false"
        if not self.model.strip():
            yield "model", f"{self.model!r} is not the name of a model", "write its name, such as llama3"
        if not is_plain_url(self.url) or set(self.url) & set("?#"):
            shown = self.url.rpartition("@")[2]  # the part before it may contain a password
            what = f"{shown!r} is not an http(s) URL without user, password, query or fragment"
            yield "url", what, "write a URL such as http://127.0.0.1:11434; a key is read from OPENAI_API_KEY"
