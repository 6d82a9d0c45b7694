"""Wrong bodies are told by the alternative that was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm.serve.protocol import ApiError, ChatBody, CompletionBody, parse


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": ["a", "b"]}, "prompt: give one prompt at a time"),
        ({"prompt": 5}, "prompt: Input should be a valid string or a valid array"),
        ({"prompt": "a", "stop": ["a"] * 5}, "stop: List should have at most 4 items after validation, not 5"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.0: Field required"),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages.0: Input should be a valid string or a valid array",
        ),
    ],
)
def test_the_reason_is_that_of_the_values_own_type(body: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse(ChatBody if "messages" in body else CompletionBody, json.dumps({"model": "one"} | body).encode())
    assert str(raised.value) == said
