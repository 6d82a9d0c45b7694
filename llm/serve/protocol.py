"""Bodies of requests and responses in OpenAI's form (platform.openai.com/docs/api-reference)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from llm.serve.engine import Scored

MAX_BODY = 1 << 20  # bytes
MAX_MESSAGES = 1000
OTHER_TYPE = 2
TOOLS = "function calling is not supported; leave out tools, tool_choice, functions and function_call"
ONLY = {  # the values that ask for nothing, of fields that are not supported
    "n": "1",
    "best_of": "1",
    "frequency_penalty": "0",
    "presence_penalty": "0",
    "logit_bias": "{}",
    "response_format": '{"type": "text"}',
    "modalities": '["text"]',
    "service_tier": '"auto"',
    "store": "false",
    "echo": "false",
    "suffix": "null",
}
TOP = 20  # most alternatives of a token
B = TypeVar("B", bound="Body")
Name = Annotated[str, Field(max_length=1000)]


class ApiError(Exception):
    """An error in OpenAI's form."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None, type: str | None = None
    ) -> None:
        super().__init__(message)
        kind = type or ("invalid_request_error" if status < 500 else "server_error")
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Body(BaseModel):
    """A body whose unknown fields, wrong types and numbers out of range are errors.

    Unknown fields that ask for nothing are left out: clients send back messages with `tool_calls: null`.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nothing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: each for name, each in value.items() if name in cls.model_fields or each not in (None, [], {})}


class Decoding(Body):
    """How tokens are chosen; the defaults of the protocol."""

    model: Name
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None  # not OpenAI's; as in other servers


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # random padding against observers of the network: not done


class Completing(Decoding):
    """What chat and plain completions share. A value that asks for what is not offered is refused, not ignored."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: (
        Annotated[str, Field(max_length=200)]
        | Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=4)]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Literal[1] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    user: Name | None = None  # ignored, as nothing is recorded
    safety_identifier: Name | None = None  # the same
    prompt_cache_key: Name | None = None  # the same

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage_wanted(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class TextFormat(Body):
    """The form of an answer."""

    type: Literal["text"]


class ChatMessage(Body):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(max_length=MAX_MESSAGES)]
    name: str | None = None
    refusal: None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(Completing):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None  # ignored, as there are no tools
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    response_format: TextFormat | None = None
    truncation: Literal["disabled", "auto"] | None = None  # auto: leave out the oldest turns; as in OpenAI's responses

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value and not info.data.get("logprobs"):
            raise PydanticCustomError("missing", "needs logprobs: true")
        return value


class CompletionBody(Completing):
    """The body of /v1/completions."""

    prompt: str | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=TOP)] | None = None
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: Literal[1] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
        if not isinstance(value, list) or not value or not all(isinstance(each, str | list) for each in value):
            return value
        if len(value) > 1:
            raise PydanticCustomError("too_long", "give one prompt at a time")
        return value[0]


class NextBody(Decoding):
    """The body of /api/next."""

    text: str
    layer: Annotated[int, Field(ge=1)] = 1
    head: Annotated[int, Field(ge=1)] = 1


class ClassifyBody(Body):
    """The body of /api/classify."""

    model: Name
    text: str


def parse(body: type[B], raw: bytes) -> B:
    """The body as an object. Raises ApiError that names the first wrong field."""
    try:
        return body.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        first = min(errors, key=_distance)
        names = [part for part in first["loc"] if isinstance(part, int) or part in _fields()]
        where = ".".join(map(str, names))
        code = "invalid_json" if first["type"] == "json_invalid" else first["type"]
        raise ApiError(400, _message(first, where, errors), where or None, code) from None


def _message(first: Mapping[str, Any], where: str, errors: Sequence[Mapping[str, Any]]) -> str:
    """What is wrong, and where."""
    name = first["loc"][0] if first["loc"] else ""
    if name in ("tools", "tool_choice", "functions", "function_call"):
        return f"{name}: {TOOLS}"
    if first["type"] == "extra_forbidden":
        path = where.removesuffix(str(first["loc"][-1])).rstrip(".")
        return f"{path}{'.' if path else ''}{first['loc'][-1]!s:.100}: is not supported; leave it out"
    if name in ONLY:
        return f"{name}: only {ONLY[name]} is supported; give that, or leave it out"
    said = first["msg"]
    if _distance(first) == OTHER_TYPE:  # all alternatives are of other types than the value
        said = " or ".join(dict.fromkeys(one["msg"].removeprefix("Input should be ") for one in errors))
        said = f"Input should be {said}"
    return f"{where}: {said}" if where else said


@cache
def _fields() -> frozenset[str]:
    """The names of all fields; the places of errors hold those of types too."""
    kinds = [Body]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return frozenset(name for kind in kinds for name in kind.model_fields)


def _distance(error: Mapping[str, Any]) -> int:
    """How far the alternative that an error is about is from the value: another type, other types in a list, or less.

    For a field of several types, pydantic lists the errors of all of them.
    """
    at = error["loc"][-1] if error["loc"] else ""
    if not error["type"].endswith("_type"):
        return 0
    return 1 if isinstance(at, int) else OTHER_TYPE if at.endswith("str") or at.startswith("list[") else 0


def chat_logprobs(scored: Sequence[Scored], bytes_of: Callable[[list[int]], bytes]) -> dict[str, Any]:
    """The field `logprobs` of a chat choice. A token may be a part of a character: its bytes are given as they are."""

    def one(token: int, logprob: float) -> dict[str, Any]:
        raw = bytes_of([token])
        return {"token": raw.decode("utf-8", "replace"), "logprob": finite(logprob), "bytes": list(raw)}

    content = [
        one(each.token, each.logprob) | {"top_logprobs": [one(token, value) for token, value in each.top]}
        for each in scored
    ]
    return {"content": content, "refusal": None}


def text_logprobs(scored: Sequence[Scored], text_of: Any, offset: int) -> dict[str, Any]:
    """The field `logprobs` of a plain choice; `offset` is the length of the text before these tokens."""
    texts = [text_of(each.token) for each in scored]
    offsets = [offset + sum(map(len, texts[:at])) for at in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": [finite(each.logprob) for each in scored],
        "top_logprobs": [
            # the likeliest last, so that it stays if two tokens have the same text
            {text_of(token): finite(value) for token, value in reversed(each.top)}
            for each in scored
        ],
        "text_offset": offsets,
    }


def finite(value: float) -> float:
    """JSON has no infinity: OpenAI writes -9999.0 for it."""
    return value if math.isfinite(value) else -9999.0
