"""Wrong bodies are told by the alternative that was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm.serve.protocol import ONLY, TOOLS, ApiError, ChatBody, CompletionBody, parse

USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": ["a", "b"]}, "prompt: give one prompt at a time"),
        ({"prompt": 5}, "prompt: Input should be a valid string or a valid array"),
        ({"prompt": "a", "stop": ["a"] * 5}, "stop: List should have at most 4 items after validation, not 5"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text: Field required"),
        (
            {"messages": [{"role": "user", "content": None}]},
            "messages.0.content: Input should be a valid string or a valid array",
        ),
        (
            {"messages": [USER | {"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0.type: Input should be 'text'",
        ),
        ({"messages": [USER | {"shout": True}]}, "messages.0.shout: is not supported; leave it out"),
        ({"messages": [USER], "shout": True}, "shout: is not supported; leave it out"),
        ({"prompt": "a", "tools": [{}]}, f"tools: {TOOLS}"),
        ({"messages": [USER], "tools": [{"type": "function"}]}, f"tools: {TOOLS}"),
        ({"messages": [USER], "tool_choice": "required"}, f"tool_choice: {TOOLS}"),
        ({"messages": [USER], "functions": [{}]}, f"functions: {TOOLS}"),
        ({"messages": [USER], "n": 2}, "n: only 1 is supported; give that, or leave it out"),
        (
            {"messages": [USER], "frequency_penalty": 1},
            "frequency_penalty: only 0 is supported; give that, or leave it out",
        ),
        ({"messages": [USER], "logit_bias": {"5": 1}}, "logit_bias: only {} is supported; give that, or leave it out"),
        (
            {"messages": [USER], "response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            'response_format: only {"type": "text"} is supported; give that, or leave it out',
        ),
    ],
)
def test_the_reason_is_that_of_the_values_own_type(body: dict[str, Any], said: str) -> None:
    with pytest.raises(ApiError) as raised:
        parse(ChatBody if "messages" in body else CompletionBody, json.dumps({"model": "one"} | body).encode())
    assert str(raised.value) == said


def test_the_values_that_errors_name_are_accepted() -> None:
    for name, value in ONLY.items():
        kind = CompletionBody if name in CompletionBody.model_fields else ChatBody
        more = {"prompt": "a"} if kind is CompletionBody else {"messages": [USER]}
        parse(kind, json.dumps({"model": "one", name: json.loads(value)} | more).encode())


def test_unknown_fields_that_ask_for_nothing_are_left_out() -> None:
    back = {"role": "assistant", "content": "b", "tool_calls": None, "audio": None, "annotations": []}
    body = {"model": "one", "messages": [USER, back, USER], "functions": [], "metadata": {}, "web_search": None}
    found = parse(ChatBody, json.dumps(body).encode())
    assert [message.text for message in found.messages] == ["a", "b", "a"]


def test_one_prompt_may_be_in_a_list() -> None:
    for given, prompt in ((["a"], "a"), ([[5, 6]], [5, 6]), ([5], [5])):
        assert parse(CompletionBody, json.dumps({"model": "one", "prompt": given}).encode()).prompt == prompt
