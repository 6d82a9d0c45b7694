"""The section `respond` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, positive
from llm.generate.config import DecodingConfig


@dataclass(frozen=True)
class RespondConfig:
    """How the test instructions are answered."""

    decoding: DecodingConfig
    batch_size: int  # prompts answered at once
    response_header: Literal["given", "generated"]  # given: the prompt ends with `### Response:`, unlike the book's

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "batch_size")
