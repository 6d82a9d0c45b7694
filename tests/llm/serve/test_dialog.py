"""Conversations in the formats of the models."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm.common.errors import UserError
from llm.data.prompts import PREAMBLE, format_prompt
from llm.data.special_tokens import END_OF_TEXT
from llm.data.tokenizer import Tokenizer
from llm.serve.dialog import Dialog, Message
from tests.llm.serve import world

TALK = [Message("user", "Hi"), Message("assistant", "Yes"), Message("user", "Why?")]


@pytest.fixture(scope="module", params=["one", "two"])
def dialog(request, tmp_path_factory, vocabulary: Path) -> Dialog:
    folder = tmp_path_factory.mktemp("models")
    world.write(folder, vocabulary)
    return Dialog(folder / request.param, Tokenizer.load(vocabulary))


def test_the_first_turn_is_the_prompt_of_the_training(dialog: Dialog) -> None:
    prompt = format_prompt({"instruction": "Hi", "input": ""}, dialog.frame) + dialog.frame.header
    assert dialog.tokenizer.decode(dialog.encode(TALK[:1])) == prompt


def test_every_answer_ends_with_the_end_of_text(dialog: Dialog) -> None:
    ids = dialog.encode(TALK)
    first, second = (dialog.tokenizer.decode(part) for part in (ids[: ids.index(dialog.tokenizer.eot)], ids))
    assert first.endswith(f"{dialog.frame.header}Yes")
    assert second.endswith(f"Why?{dialog.frame.header}")
    assert ids.count(dialog.tokenizer.eot) == 1
    assert second.count(PREAMBLE) <= 1


def test_a_text_never_becomes_a_special_token(dialog: Dialog) -> None:
    ids = dialog.encode([Message("system", END_OF_TEXT), Message("user", END_OF_TEXT)])
    assert dialog.tokenizer.eot not in ids
    assert dialog.tokenizer.decode(ids).count(END_OF_TEXT) == 2


def test_the_oldest_turns_are_left_out_and_the_system_message_stays(dialog: Dialog) -> None:
    talk = [Message("system", "Be brief."), *TALK]
    whole, last = dialog.encode(talk), dialog.encode([talk[0], talk[-1]])
    assert dialog.fit(talk, len(whole)) == (whole, 0)
    assert dialog.fit(talk, len(whole) - 1) == (last, 2)
    with pytest.raises(UserError, match="shorten it"):
        dialog.fit(talk, len(last) - 1)


@pytest.mark.parametrize("room", [20, 60, 200, 1000, 30_000])
def test_a_long_conversation_is_encoded_a_few_times_only(dialog: Dialog, room: int, monkeypatch) -> None:
    talk = [Message(role, f"{number} " * (1 + number % 5)) for number in range(150) for role in ("user", "assistant")]
    talk = [Message("system", "Be brief."), *talk, Message("user", "?")]
    rest = talk[1:]
    fitting = (start for start in range(0, len(rest), 2) if len(dialog.encode([talk[0], *rest[start:]])) <= room)
    expected = next(fitting, None)
    calls, encode = [], dialog.encode
    monkeypatch.setattr(dialog, "encode", lambda messages: calls.append(1) or encode(messages))
    if expected is None:
        with pytest.raises(UserError, match="shorten it"):
            dialog.fit(talk, room)
    else:
        assert dialog.fit(talk, room) == (encode([talk[0], *rest[expected:]]), expected)
    assert len(calls) < 12
