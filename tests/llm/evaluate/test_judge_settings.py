"""What is sent for each setting, the trial question, and the errors that name a setting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llm.common import http, params, profiles
from llm.common.errors import SERVICE, UserError
from llm.evaluate.judge import judge, require_coverage
from stages.schema import AllParams
from tests.fake_judge import Asked, FakeJudge, answer, length, status
from tests.llm.evaluate.judging import CONFIG, ENTRY, alpaca, entries

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _quick_and_alone(monkeypatch):
    monkeypatch.setattr(http, "BACKOFF_SECONDS", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(params=["ollama", "openai"])
def protocol(request):
    return request.param


def asked_with(protocol: str, text: str = "85", **changes) -> Asked:
    """The request for one answer that the judge scores 85."""
    with FakeJudge(protocol, [answer(text)], trial=answer(text)) as fake:
        (verdict,) = judge([ENTRY], replace(CONFIG, backend=protocol, url=fake.url, **changes), alpaca)
        assert verdict.score == 85
        ((trial,), (asked,)) = fake.trials, fake.asked
        assert trial.body.keys() == asked.body.keys()  # the trial question has the same settings
        return asked


def refused_with(fake: FakeJudge, n: int = 5, **changes) -> UserError:
    with pytest.raises(UserError) as caught:
        judge(entries(n), replace(CONFIG, backend=fake.protocol, url=fake.url, **changes), alpaca)
    assert caught.value.code == SERVICE
    return caught.value


def test_what_is_null_is_not_sent():
    assert asked_with("ollama", temperature=None).body["options"] == {"seed": 123, "num_ctx": 2048}
    assert set(asked_with("openai", temperature=None).body) == {"model", "messages", "stream", "seed"}
    assert set(asked_with("ollama").body) == {"model", "messages", "stream", "options"}


@pytest.mark.parametrize("think", [False, True])
def test_thinking_is_a_switch(think):
    assert asked_with("ollama", think=think).body["think"] is think
    assert asked_with("openai", think=think).body["chat_template_kwargs"] == {"enable_thinking": think}


def test_reasoning_effort_is_a_level():
    assert asked_with("openai", reasoning_effort="minimal").body["reasoning_effort"] == "minimal"
    assert asked_with("ollama", reasoning_effort="low").body["think"] == "low"  # gpt-oss


def test_a_structured_reply_is_asked_for_by_a_schema(protocol):
    asked = asked_with(protocol, '{"score": 85}', structured=True, prompt="guarded")
    if protocol == "ollama":
        schema = asked.body["format"]
    else:
        form = asked.body["response_format"]
        assert (form["type"], form["json_schema"]["strict"]) == ("json_schema", True)
        schema = form["json_schema"]["schema"]
    assert schema == SCHEMA
    assert asked.prompt.endswith('Respond with JSON: {"score": the integer number}')


def test_the_rule_is_used():
    assert asked_with("ollama", "<think>40</think>85", reply="thinking").body["stream"] is False
    asked_with("openai", "Score: 85/100", reply="lenient")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"structured": True}, "structured"),
        ({"think": False, "reasoning_effort": "low"}, "think"),
        ({"reasoning_effort": "minimal"}, "reasoning_effort"),
    ],
)
def test_settings_that_exclude_each_other_are_named(changes, name):
    assert [problem[0] for problem in replace(CONFIG, **changes).problems()] == [name]
    assert list(replace(CONFIG, structured=True, prompt="guarded", think=False).problems()) == []


# The trial question --------------------------------------------------------------------------------------------------


def test_one_trial_question_comes_first_and_is_no_verdict(protocol):
    with FakeJudge(protocol, [answer("85")], trial=answer("7")) as fake:
        verdicts = judge(entries(3), replace(CONFIG, backend=protocol, url=fake.url), alpaca)
        assert (len(fake.trials), len(fake.asked)) == (1, 3)
    assert [verdict.score for verdict in verdicts] == [85, 85, 85]


def test_a_trial_that_cannot_be_read_ends_the_run_and_shows_the_reply(protocol):
    with FakeJudge(protocol, [answer("85")], trial=answer("<think>Paris.</think>95")) as fake:
        error = refused_with(fake)
        assert not fake.asked
    assert error.where == "judge.model (llama3)"
    assert (
        error.what == "the reply to the trial question is '<think>Paris.</think>95', not a whole number from 0 to 100"
    )
    assert error.fix == "set judge.reply to thinking, which reads it"


def test_a_trial_at_the_length_limit_is_told_apart(protocol):
    with FakeJudge(protocol, [answer("85")], trial=length("")) as fake:
        error = refused_with(fake)
    assert "'' (ended at the length limit)" in error.what
    assert "judge.num_ctx" in error.fix


def test_a_trial_that_fails_ends_the_run(protocol):
    with FakeJudge(protocol, [answer("85")], trial=status(500, b"out of memory")) as fake:
        error = refused_with(fake)
        assert (len(fake.trials), len(fake.asked)) == (2, 0)  # with one retry
    assert "the trial question failed: status 500: 'out of memory'" in error.what


def test_without_a_minimum_of_coverage_an_unread_trial_is_no_error():
    with FakeJudge("ollama", [answer("85")], trial=answer("Hm.")) as fake:
        assert judge([ENTRY], replace(CONFIG, url=fake.url, min_coverage=0.0), alpaca)[0].score == 85


@pytest.mark.parametrize(
    ("changes", "text", "name", "fix"),
    [
        ({}, "Unsupported value: 'temperature' does not support 0.0", "temperature", "null"),
        ({"reasoning_effort": "low"}, "Unrecognized request argument: reasoning_effort", "reasoning_effort", "null"),
        ({"think": False}, "Unknown name: chat_template_kwargs", "think", "null"),
        ({"structured": True, "prompt": "guarded"}, "response_format is not supported", "structured", "false"),
    ],
)
def test_a_setting_that_the_server_refuses_is_named(changes, text, name, fix):
    with FakeJudge("openai", [answer("85")], trial=status(400, text.encode())) as fake:
        error = refused_with(fake, **changes)
    assert error.where.startswith(f"judge.{name} (")
    assert text[:40] in error.what
    assert error.fix == f"set judge.{name} to {fix}"


def test_a_400_that_names_no_setting_in_use_is_a_failure():
    with FakeJudge("ollama", [answer("85")], trial=status(400, b"llama3 does not support thinking")) as fake:
        assert "status 400" in refused_with(fake).what
        assert refused_with(fake, think=True).fix == "set judge.think to null"


# Coverage ------------------------------------------------------------------------------------------------------------


def uncovered(behaviours) -> UserError:
    with FakeJudge("ollama", behaviours) as fake:
        config = replace(CONFIG, url=fake.url)
        verdicts = judge(entries(len(behaviours)), config, alpaca)
    with pytest.raises(UserError) as caught:
        require_coverage(verdicts, config)
    return caught.value


def test_the_first_unparsed_reply_is_in_the_error():
    error = uncovered([answer("85"), answer("Score: 85/100"), answer("Hm.")])
    assert "the first unparsed reply is 'Score: 85/100'" in error.what
    assert error.fix == "set judge.reply to lenient, which reads it"
    long = uncovered([answer("word " * 50 + "so it is 85"), answer("2")])
    assert "... ord word word so it is 85'" in long.what


def test_replies_at_the_length_limit_are_counted():
    error = uncovered([length("Let me"), length("Well"), answer("85")])
    assert "'Let me' (ended at the length limit); 2 replies ended at the length limit" in error.what


def test_thoughts_that_use_up_all_tokens_are_cut_and_not_failed():
    with FakeJudge("openai", [answer(None, finish_reason="length")]) as fake:  # type: ignore[arg-type]
        (verdict,) = judge([ENTRY], replace(CONFIG, backend="openai", url=fake.url), alpaca)
    assert (verdict.status, verdict.flags) == ("unparsed", ("length_limit",))


# Profiles ------------------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 100}},
    "required": ["score"],
    "additionalProperties": False,
}
RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": SCHEMA}}
OLLAMA = {"stream": False, "options": {"seed": 123, "temperature": 0.0, "num_ctx": 4096}, "format": SCHEMA}
CHAT = {"stream": False, "seed": 123, "response_format": RESPONSE_FORMAT}
NO_THINKING = {"temperature": 0.0, "chat_template_kwargs": {"enable_thinking": False}}
# The bodies as docs.ollama.com (api/chat), platform.openai.com (chat/create), llama.cpp (tools/server/README.md) and
# docs.vllm.ai (OpenAI-compatible server) describe them.
DOCUMENTED = {
    "llama3.1": ("http://127.0.0.1:11434", {"model": "llama3.1:8b", **OLLAMA}),
    "qwen3": ("http://127.0.0.1:11434", {"model": "qwen3:8b", "think": False, **OLLAMA}),
    "llama-cpp": ("http://127.0.0.1:8080", {"model": "local", **NO_THINKING, **CHAT}),
    "vllm": ("http://127.0.0.1:8000", {"model": "Qwen/Qwen3-8B", **NO_THINKING, **CHAT}),
    "openai": ("https://api.openai.com", {"model": "gpt-5-mini", "reasoning_effort": "low", **CHAT}),
}


def test_every_profile_of_a_judge_is_listed_here():
    assert {path.stem for path in (ROOT / "configs/judge").iterdir()} == set(DOCUMENTED)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_profile_sends_the_documented_request(name, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    profiles.use(ROOT / "configs/judge" / f"{name}.yaml", AllParams, path)
    once = path.read_bytes()
    profiles.use(ROOT / "configs/judge" / f"{name}.yaml", AllParams, path)
    assert path.read_bytes() == once
    config = params.read_all(AllParams, path).judge
    url, body = DOCUMENTED[name]
    assert config.url == url
    reply = answer('{"score": 85}', message={"thinking": "Hm.", "reasoning_content": "Hm."})
    with FakeJudge(config.backend, [reply], trial=reply) as fake:
        (verdict,) = judge([ENTRY], replace(config, url=fake.url), alpaca)
    assert verdict.score == 85
    sent = dict(fake.asked[0].body)
    assert [message["role"] for message in sent.pop("messages")] == ["user"]
    assert sent == body


def test_every_profile_of_a_judge_sets_the_same_keys():
    files = [ROOT / "configs/ollama.yaml", *(ROOT / "configs/judge").iterdir()]
    assert len({frozenset(params.load(path)["judge"]) for path in files}) == 1  # profiles add up
