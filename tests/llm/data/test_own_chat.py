"""The chat templates that our model folders get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from llm.data import own_chat, tokenizer
from llm.data.instruction_lengths import encode_entry
from llm.data.prompts import PREAMBLE, PromptName, Template, make_frame, to_json
from llm.data.tokenizer import Tokenizer
from tests import tiny_tokenizers

ENTRY = {"instruction": "Name {a} 'fruit' \"now\" \\n.", "input": "", "output": "An apple."}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "An apple."},
    ]
}
CUSTOM = Template('<|im_start|>問\u2028"{{ x }}" 🍎\\ {instruction} ({input}).\r\n', "%}\tA:\n", system="[{system}]\n")
BEHIND = {"alpaca": ["\n\n### Input:\n"], "phi3": ["\n"], "none": ["\n"]}  # what stands between question and input
PROMPTS = pytest.mark.parametrize("prompt", ["alpaca", "phi3", "none", CUSTOM], ids=["alpaca", "phi3", "none", "own"])


@pytest.fixture
def folder(vocabulary: Path, tmp_path: Path) -> Path:
    tokenizer.copy(vocabulary, tmp_path)
    return tmp_path


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("family", ["gpt2", "llama3", "smollm2"])
@PROMPTS
def test_transformers_writes_the_prompt_of_the_training(
    vocabulary: Path, tmp_path: Path, prompt: PromptName | Template, family: str
) -> None:
    """Questions with and without an input, chats and system messages; ids, and the tokens that are trained."""
    if family == "gpt2":
        tokenizer.copy(vocabulary, tmp_path)
    else:
        tiny_tokenizers.make(family, tmp_path)
    own_chat.write(tmp_path, to_json(prompt))
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.chat
    frame = make_frame(prompt, ours)
    for entry, messages in (
        (ENTRY, asked(ENTRY["instruction"])),
        (CHAT, CHAT["messages"][:-1]),
        ({"messages": CHAT["messages"][1:]}, CHAT["messages"][1:-1]),
        *[
            (ENTRY | {"input": "red"}, asked(f"{ENTRY['instruction']}{behind}red"))
            for behind in BEHIND.get(str(prompt), [])
        ],
    ):
        answer = {"role": "assistant", "content": ENTRY["output"]}
        row = encode_entry(entry, frame, ours)
        assert row.ids == theirs.apply_chat_template([*messages, answer], return_dict=False)
        assert ours.encode_segments(ours.chat.render([*messages, answer], add_generation_prompt=False)) == tuple(row)
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == ours.encode_segments(frame.prompt(entry, header=True))[0]
        assert ids.count(ours.bos) == (ours.bos is not None)
    hostile = [m | {"content": f"a{''.join(ours.special)}b"} for m in CHAT["messages"]]  # transformers would obey
    row = encode_entry({"messages": hostile}, frame, ours)
    assert ours.encode_segments(ours.chat.render(hostile, add_generation_prompt=False)) == tuple(row)
    assert row.ids.count(ours.eot) == 2


def test_generation_ends_at_the_end_of_text(folder: Path) -> None:
    own_chat.write(folder, "alpaca")
    settings = GenerationConfig.from_pretrained(folder)
    assert (settings.eos_token_id, settings.pad_token_id, settings.bos_token_id) == (299, 299, 299)
    assert Tokenizer.load(folder).stops == {299}


def test_a_format_of_the_folders_own_is_kept(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    own_chat.write(folder, "chat")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_template_that_was_there_is_replaced(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ 'another' }}")
    own_chat.write(folder, "alpaca")
    template = Tokenizer.load(folder).chat
    assert template
    assert PREAMBLE in template.source
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "GPT2Tokenizer"
