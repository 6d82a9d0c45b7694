"""`llm chat`: memory, commands, and Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from llm.common.errors import RESOURCES, UserError
from llm.generate.config import greedy
from llm.runtime import machine
from llm.serve import engine
from llm.serve.conversation import Conversation
from llm.serve.dialog import Message
from tests import tiny
from tests.llm.serve import world


@pytest.fixture
def folder(tmp_path: Path, vocabulary: Path) -> Path:
    world.write(tmp_path, vocabulary)
    return tmp_path


@pytest.fixture
def conversation(folder: Path) -> Conversation:
    return Conversation(folder / "two", tiny.FP32, greedy(12), seed=1)


def test_an_answer_depends_on_what_was_said_before(conversation: Conversation) -> None:
    first = "".join(conversation.answer("Hello"))
    second = "".join(conversation.answer("Hello"))
    assert conversation.messages == [
        Message("user", "Hello"),
        Message("assistant", first),
        Message("user", "Hello"),
        Message("assistant", second),
    ]
    conversation.reset()
    assert "".join(conversation.answer("Hello")) == first != second
    conversation.reset()
    conversation.set_system("Be brief.")
    assert "".join(conversation.answer("Hello")) != first


def test_the_oldest_turns_are_left_out_of_a_full_context(conversation: Conversation) -> None:
    for _ in range(12):
        list(conversation.answer("Every effort moves you. " * 4))
    assert conversation.dropped > 0
    assert len(conversation.messages) == 24
    with pytest.raises(UserError, match="shorten it"):
        list(conversation.answer("moves " * 500))
    assert len(conversation.messages) == 24


def test_what_was_taken_of_a_stopped_answer_is_remembered(conversation: Conversation) -> None:
    whole = "".join(conversation.answer("Hello"))
    conversation.reset()
    answer = conversation.answer("Hello")
    taken = next(answer) + next(answer)
    answer.close()
    assert whole.startswith(conversation.messages[-1].text)
    assert conversation.messages[-1].text == taken
    assert list(conversation.answer("Hello"))


def test_an_answer_without_memory_is_an_error_and_not_remembered(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "".join(conversation.answer("Hello"))
    with monkeypatch.context() as patch:
        patch.setattr(engine, "LARGE", 0)
        patch.setattr(machine, "available", lambda _device: 1000)
        with pytest.raises(UserError, match=r"an answer of 12 need 0\.\d MB of memory, 1 kB are free") as raised:
            list(conversation.answer("Hello"))
    assert raised.value.code == RESOURCES
    assert conversation.messages == [Message("user", "Hello"), Message("assistant", first)]
    assert "".join(conversation.answer("Hello"))


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_not_the_program(
    tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "CONFIG", replace(world.CONFIG, context_length=8192))  # an answer of many seconds
    world.write(tmp_path, vocabulary)
    words = [sys.executable, "-u", "-m", "llm", "chat", "--model", "two", "--max-new-tokens", "8000"]
    environment = {"PYTHONPATH": str(world.ROOT), "PATH": "/usr/bin:/bin", "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as chat:
        assert chat.stdin
        assert chat.stdout
        chat.stdin.write(b"Hello\n")
        chat.stdin.flush()
        chat.stdout.read(1)
        chat.send_signal(signal.SIGINT)
        while not (line := chat.stdout.readline()).endswith(b" [stopped]\n"):
            assert line
        out, err = chat.communicate(b"/reset\n/dance\n", timeout=120)
    assert (chat.returncode, out) == (0, b"")
    assert err.decode().splitlines()[0] == "the conversation is forgotten"
    assert err.decode().splitlines()[1].startswith("error: /dance: is not a command")
