"""Modelfiles: the chat template in Ollama's terms gives the same prompts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from llm.common.errors import UserError
from llm.data.chat_template import ChatTemplate, Message
from llm.data.tokenizer import Tokenizer
from llm.weights import ollama
from tests import tiny_tokenizers

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT = "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" + CHATML
SPECIAL = ["<|im_start|>", "<|im_end|>"]
CHATS: list[list[Message]] = [
    [{"role": "user", "content": "How are you?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why {{ so }}?"}],
    [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Three?"},
        {"role": "assistant", "content": "Four."},
        {"role": "user", "content": "Five?"},
    ],
]


@pytest.mark.parametrize("source", [CHATML, DEFAULT])
@pytest.mark.parametrize("messages", CHATS)
def test_turns_compose_the_prompt_of_the_template(source: str, messages: list[Message]) -> None:
    chat = ChatTemplate(source, SPECIAL)
    expected = "".join(segment.text for segment in chat.render(messages, add_generation_prompt=True))
    assert ollama.turns_of(chat, "here").render(messages) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ loop.index ~ m['content'] }}{% endfor %}", "not the same text around every turn"),
        ("{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}", "leaves out the system"),
    ],
)
def test_a_template_that_ollama_cannot_be_told_is_refused(source: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        ollama.turns_of(ChatTemplate(source, SPECIAL), "here")


@pytest.mark.parametrize("token", ["<\uff5cend\u2581of\u2581text\uff5c>", "<\\end>", '<"end">', "<end\n>"])
def test_a_stop_is_written_as_it_is_or_refused(tmp_path: Path, token: str) -> None:
    tiny_tokenizers.make("llama3", tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        written = json.dumps(token)[1:-1]
        text = (tmp_path / name).read_text().replace("<|eot_id|>", written)
        (tmp_path / name).write_text(text)
    edit = json.loads((tmp_path / "tokenizer_config.json").read_text())
    edit.pop("chat_template")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(edit))
    if set(token) & set('"\n'):
        with pytest.raises(UserError, match="ends an answer, which a Modelfile cannot say"):
            ollama.modelfile(tmp_path, "model.gguf")
    else:
        assert f'PARAMETER stop "{token}"' in ollama.modelfile(tmp_path, "model.gguf").splitlines()


@pytest.mark.parametrize("family", ["smollm2", "llama3"])
def test_modelfile_of_a_folder(tmp_path: Path, family: str) -> None:
    tiny_tokenizers.make(family, tmp_path)
    text = ollama.modelfile(tmp_path, "model.gguf")
    tokenizer = Tokenizer.load(tmp_path)
    assert text.startswith("FROM ./model.gguf\n")
    stops = set(re.findall(r'^PARAMETER stop "(.*)"$', text, re.MULTILINE))
    assert {tokenizer.special[stop] for stop in stops} == tokenizer.stops
    assert text.count('"""') % 2 == 0
