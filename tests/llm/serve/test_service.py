"""Between HTTP and the worker."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from fastapi.testclient import TestClient

from llm.common.errors import RESOURCES, UserError
from llm.data.special_tokens import END_OF_TEXT
from llm.data.tokenizer import Tokenizer
from llm.generate.config import greedy
from llm.model.gpt import GPT
from llm.runtime import machine
from llm.serve import engine, models, service
from llm.serve.app import make_app
from llm.serve.batch import Batch
from llm.serve.engine import Piece
from llm.serve.look import AttentionRecorder
from llm.serve.metrics import Metrics
from llm.serve.models import Language, Models, Room
from llm.serve.protocol import ApiError, ChatBody, CompletionBody, parse
from llm.serve.service import Asked, Limits, Service
from llm.serve.text import TextStream
from tests import tiny
from tests.llm.serve import world

T = TypeVar("T")
BODY = json.dumps({"model": "one", "prompt": [5], "max_tokens": 10**6}).encode()


@pytest.fixture
def folder(tmp_path: Path, vocabulary: Path) -> Path:
    """The folder of a model, which a test may change before it is loaded."""
    world.write(tmp_path, vocabulary)
    return tmp_path / "one"


def served(folder: Path, use: Callable[[Service, Language], T], context: int | None = None) -> T:
    """What `use` returns of a service of this model."""
    language = models.load_language(str(folder), "one", tiny.FP32, Room(1, context))

    async def run() -> T:
        made = Service(Models({"one": language}, {}), Limits(8, 60.0), Metrics())
        try:
            return await asyncio.to_thread(use, made, language)
        finally:
            made.worker.close()

    return asyncio.run(run())


def test_a_server_starts_if_there_is_memory_for_one_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LARGE", 0)
    monkeypatch.setattr(machine, "available", lambda _device: 1 << 30)
    language = models.load_language(str(folder), "one", tiny.FP32, Room(9))
    needed = language.engine.prompt_bytes(engine.PREFILL) + language.engine.owed(512)
    monkeypatch.setattr(machine, "available", lambda _device: needed)
    assert served(folder, lambda made, _: made.complete(parse(CompletionBody, BODY)).decoding.max_new_tokens) == 511
    monkeypatch.setattr(machine, "available", lambda _device: needed - 1)
    with pytest.raises(UserError, match=r"a request of 512 tokens needs 0.7 MB of memory, 0.7 MB are free") as raised:
        models.load_language(str(folder), "one", tiny.FP32, Room(9))
    assert raised.value.code == RESOURCES
    assert raised.value.fix == "give a smaller --context, such as 256"
    models.load_language(str(folder), "one", tiny.FP32, Room(9, 256))
    monkeypatch.setattr(machine, "available", lambda _device: 1000)
    with pytest.raises(UserError, match="free some memory"):
        models.load_language(str(folder), "one", tiny.FP32, Room(9, 1))


def test_a_shorter_context_gives_the_same_logits(folder: Path) -> None:
    whole, short = (models.load_language(str(folder), "one", tiny.FP32, Room(1, most)) for most in (None, 64))
    assert short.config.context_length == 64
    assert models.load_language(str(folder), "one", tiny.FP32, Room(1, 10**6)).config == whole.config
    assert Batch(short.engine.model, 1).add([[5, 6, 7]]).equal(Batch(whole.engine.model, 1).add([[5, 6, 7]]))


def test_a_prompt_is_refused_if_a_shorter_context_has_no_room_for_it(folder: Path) -> None:
    def asked(made: Service, _language: Language) -> Asked:
        return made.complete(parse(CompletionBody, json.dumps({"model": "one", "prompt": [5] * 16}).encode()))

    assert served(folder, asked, 17).decoding.max_new_tokens == 1
    with pytest.raises(ApiError, match="context has 16 tokens: 16 tokens leave no room for an answer"):
        served(folder, asked, 16)


def begin_with(folder: Path, token: str) -> None:
    """Let the tokenizer put `token` before every text."""
    path = folder / "tokenizer.json"
    stored = json.loads(path.read_text())
    number = next(one["id"] for one in stored["added_tokens"] if one["content"] == token)
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {token: {"id": token, "ids": [number], "tokens": [token]}}
    stored["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": special,
    }
    path.write_text(json.dumps(stored))


def test_a_text_begins_as_in_generate_and_token_ids_stay_as_they_are(folder: Path) -> None:
    begin_with(folder, END_OF_TEXT)
    tokenizer = Tokenizer.load(folder)
    expected = tokenizer.encode_prompt("Every effort")
    assert expected[0] == tokenizer.special[END_OF_TEXT]

    def asked(made: Service, _language: Language) -> list[Asked]:
        prompts: list[Any] = ["Every effort", ["Every effort"], expected[1:]]
        body = {"model": "one", "temperature": 0, "max_tokens": 5}
        return [made.complete(parse(CompletionBody, json.dumps(body | {"prompt": each}).encode())) for each in prompts]

    assert [one.prompt for one in served(folder, asked)] == [expected, expected, expected[1:]]
    assert served(folder, lambda made, language: made.encode(language, "Every effort", "text")) == expected


STRICT = """{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"""
USER, SYSTEM = {"role": "user", "content": "Every effort"}, {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize("truncation", ["disabled", "auto"])
@pytest.mark.parametrize(
    ("messages", "code", "said"),
    [
        ([USER], None, ""),
        ([USER, USER], "invalid_messages", "the chat template cannot render the messages: roles must alternate"),
        ([SYSTEM, USER], "invalid_messages", "the chat template cannot render the messages: roles must alternate"),
        ([USER | {"content": "Every " * 600}], "context_length_exceeded", "the model's context has 512 tokens: "),
    ],
    ids=["fine", "two", "system", "long"],
)
def test_messages_that_the_template_refuses_are_told_from_those_that_are_too_long(
    folder: Path, truncation: str, messages: list[Any], code: str | None, said: str
) -> None:
    (folder / "chat_template.jinja").write_text(STRICT)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"prompt": "chat"}))
    body = {"model": "one", "messages": messages, "truncation": truncation, "max_tokens": 2}

    def asked(made: Service, _language: Language) -> Any:
        return made.chat(parse(ChatBody, json.dumps(body).encode()))

    if code is None:
        assert served(folder, asked)[1] == 0
        return
    with pytest.raises(ApiError) as caught:
        served(folder, asked)
    told = caught.value.body["error"]
    assert (caught.value.status, told["type"], told["param"]) == (400, "invalid_request_error", "messages")
    assert told["code"] == code
    assert told["message"].startswith(said)


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


def test_a_request_without_memory_gets_an_error_that_says_how_much(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "LARGE", 0)
    loaded = models.load([str(folder)], tiny.FP32, Room(4))
    monkeypatch.setattr(machine, "available", lambda _device: 600_000)  # another process has taken the rest
    with TestClient(make_app(loaded, Limits(8, 60.0), Metrics(), "127.0.0.1"), "http://127.0.0.1") as client:
        body: dict[str, Any] = {"model": "one", "prompt": "Every effort", "temperature": 0}
        assert client.post("/v1/completions", json=body | {"max_tokens": 5}).status_code == 200
        answer = client.post("/v1/completions", json=body | {"max_tokens": 450})
        stream = client.post("/v1/completions", json=body | {"max_tokens": 450, "stream": True}).text
        assert client.post("/v1/completions", json=body | {"max_tokens": 5}).status_code == 200
        monkeypatch.setattr(machine, "available", lambda _device: 1000)
        text = client.post("/api/next", json={"model": "one", "text": "Every effort"}).json()["error"]
    assert (text["code"], text["param"]) == ("insufficient_memory", "text")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (503, "insufficient_memory", "server_error")
    assert re.fullmatch(
        r"\d+ tokens with an answer of 450 need 0.7 MB of memory, 0.6 MB are free; "
        r"ask for fewer tokens \(max_tokens\), or try again later",
        error["message"],
    )
    assert json.loads(stream.removeprefix("data: "))["error"] == error


@pytest.mark.parametrize("shared", [False, True])
def test_the_attention_of_the_last_tokens_is_that_of_all_tokens(shared: bool) -> None:
    shape = tiny.of_family("llama") if shared else tiny.MODEL
    model, ids = GPT(replace(shape, context_length=100)).eval(), torch.arange(100)[None]
    recorder, all_weights = AttentionRecorder(1, 1), list[torch.Tensor]()

    class Whole(AttentionRecorder):
        def attend(self, layer: int, q: Any, k: Any, *rest: Any) -> Any:
            keys = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            mask = torch.ones(100, 100, dtype=torch.bool).triu(1)
            all_weights.append((q @ keys.mT / q.shape[-1] ** 0.5).masked_fill(mask, -torch.inf).softmax(-1))
            return super().attend(layer, q, k, *rest)

    with torch.inference_mode():
        model.transformer(ids, recorder)
        model.transformer(ids, Whole(0, 0))
    assert recorder.weights.shape == (64, 100)  # and not as many rows as there are tokens
    torch.testing.assert_close(recorder.weights, all_weights[1][0, 1, -64:])
