"""The server in a process of its own, as clients see it."""

from __future__ import annotations

import http.client
import json
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests

from llm.data.special_tokens import END_OF_TEXT
from tests.llm.serve import world

openai = pytest.importorskip("openai")
ASKED = [{"role": "user", "content": "Every effort"}]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, vocabulary: Any) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    world.write(folder, vocabulary)
    with world.server(folder, "--rows", "8", "--queue", "64") as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def post(address: str, path: str, body: Any, **headers: str) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return requests.post(address + path, data=data, headers={"Content-Type": "application/json"} | headers, timeout=60)


def complete(address: str, **body: Any) -> requests.Response:
    return post(address, "/v1/completions", {"model": "one", "prompt": "Every", "temperature": 0} | body)


def metric(address: str, name: str) -> float:
    lines = requests.get(f"{address}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@pytest.mark.slow
def test_the_official_client_streams_the_whole_answer(client: Any) -> None:
    whole = client.chat.completions.create(model="one", messages=ASKED, temperature=0, max_tokens=20)
    chunks = list(
        client.chat.completions.create(
            model="one",
            messages=ASKED,
            temperature=0,
            max_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content != ""
    assert len(chunks) > 10
    assert chunks[-1].usage == whole.usage
    assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (20, "length")


def test_the_models_are_listed(client: Any, address: str) -> None:
    assert [model.id for model in client.models.list()] == ["one", "two"]
    assert client.models.retrieve("two").id == "two"
    assert requests.get(f"{address}/health", timeout=60).json() == {"status": "ok"}
    assert requests.head(f"{address}/health", timeout=60).status_code == 200
    assert requests.get(f"{address}/api/models", timeout=60).json()["classifiers"][0]["labels"][1] == "<b>spam</b>"


def test_a_seed_repeats_an_answer_and_a_stop_ends_it(client: Any) -> None:
    def text(seed: int, stop: str | None = None) -> str:
        asked = client.completions.create(model="one", prompt="Every", seed=seed, max_tokens=30, stop=stop)
        return str(asked.choices[0].text)

    first = text(1)
    assert text(1) == first != text(2)
    stop = first[8:10]
    assert text(1, stop) == first[: first.index(stop)]


def test_logprobs_are_in_the_form_of_each_endpoint(client: Any) -> None:
    plain = client.completions.create(model="one", prompt="Every", temperature=0, max_tokens=5, logprobs=3)
    found = plain.choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) == 5
    assert all(max(top.values()) == value for top, value in zip(found.top_logprobs, found.token_logprobs, strict=True))
    options = {"temperature": 0, "max_tokens": 5, "logprobs": True, "top_logprobs": 2}
    chat = client.chat.completions.create(model="one", messages=ASKED, **options).choices[0].logprobs.content
    assert [len(each.top_logprobs) for each in chat] == [2] * 5
    streamed = list(client.chat.completions.create(model="one", messages=ASKED, stream=True, **options))
    parts = [each for chunk in streamed if chunk.choices[0].logprobs for each in chunk.choices[0].logprobs.content]
    assert parts == chat


def test_the_bytes_of_the_tokens_are_those_of_the_answer(client: Any) -> None:
    options = {"temperature": 0, "max_tokens": 40, "logprobs": True}
    answer = client.chat.completions.create(model="one", messages=ASKED, **options).choices[0]
    raw = b"".join(bytes(each.bytes) for each in answer.logprobs.content)
    assert raw.decode("utf-8", "replace").strip() == answer.message.content
    assert any("\ufffd" in each.token for each in answer.logprobs.content)  # a part of a character


def test_an_answer_can_be_sent_back_as_the_client_dumps_it(client: Any) -> None:
    said = client.chat.completions.create(model="one", messages=ASKED, max_tokens=3).choices[0].message.model_dump()
    assert said["tool_calls"] is None
    assert client.chat.completions.create(model="one", messages=[*ASKED, said, *ASKED], max_tokens=3).choices


def test_many_clients_at_once_get_the_texts_of_one_at_a_time(address: str) -> None:
    def text(n: int) -> str:
        asked = complete(address, prompt="The quick brown fox"[: 1 + n % 19], max_tokens=10 + n)
        assert asked.status_code == 200, asked.text
        return str(asked.json()["choices"][0]["text"])

    alone = [text(n) for n in range(32)]
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(text, range(32))) == alone
    assert metric(address, 'llm_batch_size_bucket{le="2.0",model="one"}') < metric(
        address, 'llm_batch_size_count{model="one"}'
    )


def leave(address: str, stream: bool) -> str:
    """Ask, and hang up once the request runs; how it ended: a short answer may be complete before."""
    before = finished(address)
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    body = {"model": "one", "prompt": "E", "max_tokens": 500, "stream": stream, "temperature": 0}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse() if stream else None
    while not metric(address, "llm_running_requests") and finished(address) == before:
        time.sleep(0.01)
    if answer:
        answer.close()
    connection.close()
    until = time.monotonic() + 60
    while finished(address) == before and time.monotonic() < until:
        time.sleep(0.02)
    assert metric(address, "llm_running_requests") == 0
    (how,) = finished(address) - before
    return how


def finished(address: str) -> Counter[str]:
    """How many requests have ended in which way."""
    lines = requests.get(f"{address}/metrics", timeout=60).text.splitlines()
    found = (re.match(r'llm_requests_total\{.*finish="(\w+)".*\} (.*)', line) for line in lines)
    return Counter({one[1]: int(float(one[2])) for one in found if one})


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_row(address: str, stream: bool) -> None:
    ends: list[str] = []
    while not ends or ends[-1] == "length":
        assert len(ends) < 10
        ends.append(leave(address, stream))
    assert ends[-1] == "cancelled"


def test_end_of_text_in_a_prompt_is_plain_text(address: str) -> None:
    usage = complete(address, prompt=END_OF_TEXT, max_tokens=1).json()["usage"]
    assert usage["prompt_tokens"] > 5


BAD: list[tuple[Any, int, str | None, str]] = [
    (b"{", 400, None, "invalid_json"),
    (b'{"model": "one", "prompt": "\\ud800"}', 400, None, "invalid_json"),
    (b"[" * 100_000, 400, None, "invalid_json"),
    ({"model": "nope", "prompt": "a"}, 404, "model", "model_not_found"),
    ({"model": "sorter", "prompt": "a"}, 404, "model", "model_not_found"),
    ({"model": "one"}, 400, "prompt", "missing"),
    ({"model": "one", "prompt": ""}, 400, "prompt", "empty"),
    ({"model": "one", "prompt": "a b" * 500}, 400, "prompt", "context_length_exceeded"),
    ({"model": "one", "prompt": "a" * 900_000}, 400, "prompt", "context_length_exceeded"),
    ({"model": "one", "prompt": [1, 300]}, 400, "prompt", "invalid_token"),
    ({"model": "one", "prompt": []}, 400, "prompt", "too_short"),
    ({"model": "one", "prompt": [True]}, 400, "prompt.0", "int_type"),
    ({"model": "one", "prompt": [1, "a"]}, 400, "prompt.1", "int_type"),
    ({"model": "one", "prompt": ["a", "b"]}, 400, "prompt", "too_long"),
    ({"model": "one", "prompt": [[1], [2]]}, 400, "prompt", "too_long"),
    ({"model": "one", "prompt": 5}, 400, "prompt", "string_type"),
    ({"model": "one", "prompt": "a", "stop": ["a"] * 5}, 400, "stop", "too_long"),
    ({"model": "one", "prompt": "a", "stop": "a" * 201}, 400, "stop", "string_too_long"),
    ({"model": "one", "prompt": "a", "stop": [1]}, 400, "stop.0", "string_type"),
    ({"model": "one", "prompt": "a", "temperature": 3}, 400, "temperature", "less_than_equal"),
    ({"model": "one", "prompt": "a", "temperature": "hot"}, 400, "temperature", "float_type"),
    ({"model": "one", "prompt": "a", "n": 2}, 400, "n", "literal_error"),
    ({"model": "one", "prompt": "a", "shout": True}, 400, None, "extra_forbidden"),
    (b" " * (2 << 20), 413, None, "body_too_large"),
]


@pytest.mark.parametrize(("body", "status", "param", "code"), BAD, ids=lambda value: str(value)[:40])
def test_bad_requests_get_the_error_form(address: str, body: Any, status: int, param: str | None, code: str) -> None:
    answer = post(address, "/v1/completions", body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/v1/embeddings", 404, "not_found"), ("/v1/responses", 404, "not_found"), ("/health", 405, "method_not_allowed")],
)
def test_a_path_that_is_not_offered_is_named(address: str, path: str, status: int, code: str) -> None:
    answer = post(address, path, {})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"].startswith(f"POST {path} is not offered; there are /, ")


def test_top_logprobs_without_logprobs_are_refused(address: str) -> None:
    body = {"model": "one", "messages": ASKED, "max_tokens": 2, "top_logprobs": 2}
    error = post(address, "/v1/chat/completions", body).json()["error"]
    assert (error["param"], error["message"]) == ("top_logprobs", "top_logprobs: needs logprobs: true")
    assert post(address, "/v1/chat/completions", body | {"logprobs": True}).status_code == 200


def test_fields_that_ask_for_nothing_are_accepted(address: str) -> None:
    body = {"model": "one", "messages": ASKED, "max_tokens": 2, "tool_choice": "auto"}
    plain = {"tools": [], "response_format": {"type": "text"}}
    assert post(address, "/v1/chat/completions", body | plain).status_code == 200
    for field, value in (("tools", [{"type": "function"}]), ("response_format", {"type": "json_object"})):
        error = post(address, "/v1/chat/completions", body | {field: value}).json()["error"]
        assert error["param"].startswith(field)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.com"}, 403),
        ({"Host": "127.0.0.1.evil.com"}, 403),
        ({"Origin": "http://evil.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({}, 200),
    ],
    ids=str,
)
def test_other_origins_and_names_are_refused(address: str, headers: dict[str, str], status: int) -> None:
    answer = post(address, "/v1/completions", {"model": "one", "prompt": "a", "max_tokens": 1}, **headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert requests.get(
        address, headers={k: v for k, v in headers.items() if k != "Content-Type"}, timeout=60
    ).status_code in (
        200,
        status,
    )


def test_the_page_cannot_run_foreign_scripts(address: str) -> None:
    page = requests.get(address, timeout=60)
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    assert requests.get(f"{address}/../app.py", timeout=60).status_code == 404
    assert requests.get(f"{address}/nothing", timeout=60).json()["error"]["code"] == "not_found"


def test_old_turns_are_left_out_only_if_asked(address: str) -> None:
    talk = [{"role": role, "content": "Every effort moves you. " * 4} for role in ("user", "assistant") * 8] + ASKED
    body = {"model": "one", "messages": talk, "max_tokens": 2}
    assert post(address, "/v1/chat/completions", body).json()["error"]["code"] == "context_length_exceeded"
    answer = post(address, "/v1/chat/completions", body | {"truncation": "auto"}).json()
    assert answer["dropped_messages"] > 0
    assert answer["usage"]["completion_tokens"] == 2


def test_the_next_token_and_its_attention(address: str) -> None:
    body = {"model": "one", "text": "Every effort", "temperature": 1.2, "top_k": 3, "layer": 2, "head": 2}
    found = post(address, "/api/next", body).json()
    drawn = [each["drawn"] for each in found["candidates"]]
    assert sum(drawn) == pytest.approx(1)
    assert [value > 0 for value in drawn] == [True] * 3 + [False] * 17
    assert [sum(row) for row in found["attention"]] == pytest.approx([1] * found["n_tokens"], abs=0.01)
    assert all(value == 0 for at, row in enumerate(found["attention"]) for value in row[at + 1 :])
    coldest = post(address, "/api/next", {"model": "one", "text": "Every effort", "temperature": 1e-300}).json()
    assert [each["drawn"] for each in coldest["candidates"]] == [1] + [0] * 19
    assert post(address, "/api/next", body | {"layer": 3}).json()["error"]["param"] == "layer"


def test_the_classifier_says_which_parts_matter(address: str) -> None:
    text = "Every € 🙂 effort " * 8
    found = post(address, "/api/classify", {"model": "sorter", "text": text}).json()
    assert sum(found["probabilities"].values()) == pytest.approx(1)
    assert "".join(part["text"] for part in found["parts"]) == text
    assert len(found["parts"]) <= 64
    assert any(abs(part["change"]) > 1e-4 for part in found["parts"])


@pytest.mark.slow
def test_a_full_queue_and_a_late_answer(tmp_path: Any, vocabulary: Any) -> None:
    world.write(tmp_path, vocabulary)
    with world.server(tmp_path, "--rows", "1", "--queue", "1", "--seconds", "0.0001", stop=signal.SIGINT) as address:
        late = complete(address, max_tokens=400)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        stream = complete(address, max_tokens=400, stream=True).text
        assert '"code": "timeout"' in stream
        assert "[DONE]" not in stream
    with world.server(tmp_path, "--rows", "1", "--queue", "1") as address, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: complete(address, max_tokens=400), range(16)))
        assert {answer.status_code for answer in answers} == {200, 429}
        busy = next(answer for answer in answers if answer.status_code == 429)
        assert (busy.json()["error"]["type"], busy.headers["retry-after"]) == ("rate_limit_error", "1")


@pytest.mark.slow
@pytest.mark.parametrize("signals", [1, 2])
def test_the_end_of_the_server_ends_running_answers_with_an_error(
    signals: int, tmp_path: Any, vocabulary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "CONFIG", replace(world.CONFIG, context_length=8192))  # answers of many seconds
    world.write(tmp_path, vocabulary)

    def ask(address: str, number: int) -> requests.Response:
        return complete(address, max_tokens=8000, stream=number % 2 == 0, temperature=1.5, top_p=0.01, seed=number)

    with ThreadPoolExecutor(12) as pool:
        with world.server(tmp_path, "--rows", "4", stop=signal.SIGINT) as address:
            (process,) = [p for p in psutil.Process().children(recursive=True) if has_port(p, urlsplit(address).port)]
            answers = [pool.submit(ask, address, number) for number in range(12)]
            while metric(address, "llm_running_requests") + metric(address, "llm_waiting_requests") < 8:
                assert not all(answer.done() for answer in answers)
            for _ in range(signals - 1):
                process.send_signal(signal.SIGINT)
                time.sleep(0.1)
        found = [answer.result() for answer in answers]
    assert (tmp_path / "log").read_text() == "stopped\n"
    cut = [one for one in found if '"code": "stopping"' in one.text or one.status_code == 503]
    assert len(cut) >= 4
    for one in cut:
        error = one.text.splitlines()[-2] if one.status_code == 200 else one.text
        assert json.loads(error.removeprefix("data: "))["error"]["message"] == "the server is stopping"


def noise(random: random.Random) -> Any:
    """A value of any kind."""
    kinds = [None, True, -1, 0, 1, 2**70, 0.5, 1e308, "", "a", "one", "€" * 9, [], ["a"], [5], {}, {"a": 1}]
    return random.choice([*kinds, [{"role": "user", "content": random.choice(["", "hi", 3])}]])


def random_request(random: random.Random) -> tuple[str, bytes]:
    path = random.choice(["/v1/completions", "/v1/chat/completions", "/api/next", "/api/classify", "/v1/models", "/x"])
    body: dict[str, Any] = {"model": random.choice(["one", "two", "sorter", "no"]), "prompt": "Ev", "messages": ASKED}
    wanted = {"/v1/completions": ["prompt"], "/v1/chat/completions": ["messages"]}.get(path, ["text"])
    body = {"model": body["model"]} | {key: body.get(key, "Every effort") for key in wanted}
    if path.startswith("/v1"):
        body |= {"max_tokens": random.randint(1, 6), "stream": random.random() < 0.3, "seed": random.randint(0, 9)}
    for _ in range(random.choice([0, 0, 1, 1, 2])):
        names = [
            "stop",
            "temperature",
            "top_k",
            "top_p",
            "logprobs",
            "top_logprobs",
            "stream_options",
            "n",
            "layer",
            "head",
        ]
        body[random.choice([*names, *body])] = noise(random)
    raw = json.dumps(body).encode()
    if random.random() < 0.1:
        at = random.randrange(len(raw))
        raw = raw[:at] + bytes(random.randrange(256) for _ in range(3)) + raw[at + random.randrange(3) :]
    return path, raw


def hammer(address: str, count: int) -> dict[int, int]:
    """Send random requests, four at a time; a tenth of the clients leave early. Returns how often each status came."""

    def some(seed: int) -> dict[int, int]:
        source, found = random.Random(seed), dict[int, int]()
        with requests.Session() as session:
            for _ in range(count // 4):
                path, raw = random_request(source)
                leaves = source.random() < 0.1
                headers = {"Content-Type": "application/json"}
                answer = session.post(address + path, data=raw, headers=headers, timeout=60, stream=leaves)
                if not leaves:
                    assert "internal" not in answer.text, (path, raw, answer.text)
                answer.close()
                found[answer.status_code] = found.get(answer.status_code, 0) + 1
        return found

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(some, range(4)))
    return {status: sum(part.get(status, 0) for part in parts) for part in parts for status in part}


def has_port(process: psutil.Process, port: int | None) -> bool:
    with suppress(psutil.Error):  # it has just ended
        return any(connection.laddr.port == port for connection in process.net_connections())
    return False


@pytest.mark.parametrize(
    "count", [pytest.param(400, marks=pytest.mark.slow), pytest.param(10_000, marks=pytest.mark.long)]
)
def test_random_requests_cause_no_server_error_and_no_growth(count: int, tmp_path: Any, vocabulary: Any) -> None:
    world.write(tmp_path, vocabulary)
    with world.server(tmp_path, "--rows", "8") as address:
        port = urlsplit(address).port
        (process,) = [p for p in psutil.Process().children(recursive=True) if has_port(p, port)]
        hammer(address, 200)
        before = process.memory_info().rss
        statuses = hammer(address, count)
        grown = process.memory_info().rss - before
        assert max(statuses) < 500, statuses
        assert {200, 400, 404} <= set(statuses)
        assert grown < 20 << 20, f"{grown} bytes"
        print(statuses, f"{grown / 2**20:.1f} MiB more")
    assert "Traceback" not in (tmp_path / "log").read_text()
