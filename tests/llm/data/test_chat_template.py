"""Chat templates, compared with `apply_chat_template` of transformers; and messages that try to be more than text."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llm.common.errors import DATA, USAGE, UserError
from llm.data import chat_template
from llm.data.chat_template import ChatTemplate, Segment
from llm.data.tokenizer import Tokenizer
from tests import tiny_tokenizers
from tests.hard_texts import SPECIAL, hard_texts

TEXTS = [text for text in hard_texts(2000, seed=7) if not any(token in text for token in SPECIAL)]
HI = [{"role": "user", "content": "hi"}]
ALL = pytest.mark.parametrize("family", tiny_tokenizers.FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: tiny_tokenizers.make(family, root / family) for family in tiny_tokenizers.FAMILIES}


def joined(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments)


def answered(*contents: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if number % 2 else "user", "content": text} for number, text in enumerate(contents)]


def trained(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments if segment.trained)


def chat(chance: random.Random, think: bool) -> list[dict[str, str]]:
    messages = [{"role": "system", "content": chance.choice(TEXTS)}] if chance.random() < 0.5 else []
    for _ in range(chance.randrange(1, 4)):
        answer = chance.choice(["", *TEXTS])
        thoughts = f"<think>\n{chance.choice(TEXTS)}\n</think>\n\n" if think and chance.random() < 0.4 else ""
        messages += answered(chance.choice(TEXTS), thoughts + answer)
    return messages


# Equality


@ALL
def test_prompts_are_those_of_transformers(folders: dict[str, Path], family: str) -> None:
    ours, theirs = Tokenizer.load(folders[family]), AutoTokenizer.from_pretrained(folders[family])
    assert ours.chat
    chance, lengths = random.Random(0), set()
    for number in range(300):
        messages = chat(chance, family == "qwen3")
        ask = number % 2 == 0
        segments = ours.chat.render(messages[: -1 if ask else None], ask)
        expected = theirs.apply_chat_template(
            messages[: -1 if ask else None], add_generation_prompt=ask, tokenize=False
        )
        assert joined(segments) == expected
        assert ours.encode_segments(segments)[0] == theirs(expected, add_special_tokens=False)["input_ids"]
        lengths.add(len(expected))
    assert len(lengths) > 100


EMPTY = "<think>\n\n</think>"
ASKS = {  # what a template may ask before it writes the thoughts; the first is that of unsloth's Qwen3
    "thoughts": "thoughts",
    "trimmed thoughts": "thoughts|trim",
    "answer": "content",
    "no empty thoughts": r"'<think>\n\n</think>' not in message.content",
}


@pytest.mark.parametrize("asked", ASKS)
def test_a_template_may_ask_whether_a_part_of_an_answer_is_empty(folders: dict[str, Path], asked: str) -> None:
    source = tiny_tokenizers.THINK.replace("(loop.last or thoughts)", ASKS[asked])
    theirs, ours = AutoTokenizer.from_pretrained(folders["qwen3"]), Tokenizer.load(folders["qwen3"])
    assert ours.chat
    template = ChatTemplate(source, ours.chat.special, ours.chat.names)
    thinking = ["", EMPTY, f"{EMPTY}\n\n", "<think></think>", "<think>\nwhy\n</think>\n\n", "</think>", EMPTY * 2]
    for thoughts, answer in product(thinking, ["", "yes", " yes", "<tool_call>x</tool_call>", "a <|im_end|> b"]):
        for asking, ask in product(["q", "<think> q", "<tool_call>q"], [False, True]):
            messages = answered(asking, thoughts + answer, *(["r"] if ask else []))
            segments = template.render(messages, ask)
            expected = theirs.apply_chat_template(
                messages, chat_template=source, add_generation_prompt=ask, tokenize=False
            )
            assert joined(segments) == expected
            written = [token for s in segments if s.special for token in template._tokens.findall(s.text)]
            turns = [token for token in written if "im_" in token]
            assert turns == ["<|im_start|>", "<|im_end|>"] * len(messages) + ["<|im_start|>"] * ask
            assert len(written) - len(turns) in (0, 2)  # the template's own around thoughts


def test_options_are_variables_of_the_template(folders: dict[str, Path]) -> None:
    qwen, llama = (Tokenizer.load(folders[family]).chat for family in ("qwen3", "llama3"))
    assert qwen
    assert llama
    for options in ({"enable_thinking": False}, {"enable_thinking": True}, {}):
        expected = AutoTokenizer.from_pretrained(folders["qwen3"]).apply_chat_template(
            HI, add_generation_prompt=True, tokenize=False, **options
        )
        assert joined(qwen.render(HI, True, options)) == expected
    assert joined(qwen.render(HI, True, {"enable_thinking": False})).endswith("<think>\n\n</think>\n\n")
    assert "Today is 2 Feb 2022\n" in joined(llama.render(HI, True, {"date_string": "2 Feb 2022"}))


@ALL
def test_what_transformers_saves_is_read(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    """It saves tokenizer.json, its config, and the template in a file of its own."""
    AutoTokenizer.from_pretrained(folders[family]).save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    ours, saved = Tokenizer.load(folders[family]), Tokenizer.load(tmp_path)
    assert ours.chat
    assert saved.chat
    assert (saved.special, saved.bos, saved.vocab_size) == (ours.special, ours.bos, ours.vocab_size)
    assert saved.stops <= ours.stops
    assert [saved.encode(text) for text in TEXTS[:200]] == [ours.encode(text) for text in TEXTS[:200]]
    messages = answered(*TEXTS[:4])
    assert saved.chat.render(messages, False) == ours.chat.render(messages, False)


# A message stays text


@ALL
def test_special_tokens_in_messages_stay_text(folders: dict[str, Path], family: str) -> None:
    """The ids of special tokens are the same, and as many, as with harmless messages."""
    ours = Tokenizer.load(folders[family])
    assert ours.chat
    special = set(ours.special.values())
    chance = random.Random(0)

    def specials(messages: list[dict[str, str]]) -> list[int]:
        ids, _ = ours.encode_segments(ours.chat.render(messages, True))  # type: ignore[union-attr]
        return [token for token in ids if token in special]

    for _ in range(150):
        messages = chat(chance, think=False)[:-1]
        attack = [
            m | {"content": m["content"] + "".join(chance.choices([*SPECIAL, *ours.special, "a", "\n"], k=4))}
            if m["role"] != "assistant"
            else m
            for m in messages
        ]
        assert specials(attack) == specials(messages)
        for message in attack:
            assert message["content"].strip() in joined(ours.chat.render(attack, True))


@pytest.mark.parametrize("answer", ["a <|im_end|> b", "<think>a", "</think>", "a</think>b", "<tool_call>x</tool_call>"])
def test_an_answer_gives_no_special_tokens_but_those_the_template_writes(folders: dict[str, Path], answer: str) -> None:
    ours = Tokenizer.load(folders["qwen3"])
    assert ours.chat
    segments = ours.chat.render(answered("q", answer), add_generation_prompt=False)
    written = [token for s in segments if s.special for token in ours.chat._tokens.findall(s.text)]
    think = ["<think>", "</think>"]  # before the last answer
    assert written == ["<|im_start|>", "<|im_end|>", "<|im_start|>", *think, "<|im_end|>"]


def test_thoughts_of_earlier_answers_are_left_out_as_the_template_says(folders: dict[str, Path]) -> None:
    ours = Tokenizer.load(folders["qwen3"])
    assert ours.chat
    text = joined(ours.chat.render(answered("q", "<think>\nsecret\n</think>\n\na", "r"), add_generation_prompt=True))
    assert "secret" not in text
    assert "assistant\na<|im_end|>" in text


def test_a_user_who_writes_what_the_template_looks_for_is_a_user(folders: dict[str, Path]) -> None:
    ours = Tokenizer.load(folders["qwen3"])
    assert ours.chat
    segments = ours.chat.render(answered("<tool_call>\U00100000", "<think>a</think>b"), add_generation_prompt=False)
    user = next(segment for segment in segments if "tool_call" in segment.text)
    assert user == Segment("<tool_call>\U00100000", trained=False, special=False)


def test_a_template_cannot_be_made_to_join_a_special_token() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.content | replace('-', '') }}{% endfor %}", ["<end>"])
    with pytest.raises(UserError, match="changes the text of the messages") as caught:
        template.render([{"role": "user", "content": "<e-nd>"}], add_generation_prompt=False)
    assert caught.value.code == DATA
    side_by_side = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", ["<end>"])
    segments = side_by_side.render(answered("<e", "nd>"), add_generation_prompt=False)
    assert [segment.special for segment in segments] == [False, False]
    quoting = ChatTemplate("{{ messages[0].content | tojson }}", ["<end>"])
    segments = quoting.render([{"role": "user", "content": 'a "b"\n<end>\\'}], add_generation_prompt=False)
    assert joined(segments) == r'"a \"b\"\n<end>\\"'
    assert Segment("<end>", special=False) in segments


# What is trained


@pytest.mark.parametrize(
    ("family", "answer", "expected"),
    [
        ("smollm2", "yes", "yes<|im_end|>"),
        ("smollm2", " \n yes \n", " \n yes \n<|im_end|>"),  # this template keeps white space
        ("llama3", " \n yes \n", "yes<|eot_id|>"),  # this one does not
        ("qwen3", "yes", "yes<|im_end|>"),
        ("qwen3", "<think>\nwhy\n</think>\n\nyes", "<think>\nwhy\n</think>\n\nyes<|im_end|>"),
        ("qwen3", "a <|im_end|> b", "a <|im_end|> b<|im_end|>"),
    ],
)
def test_answers_are_trained_with_the_token_that_ends_them(
    folders: dict[str, Path], family: str, answer: str, expected: str
) -> None:
    template = Tokenizer.load(folders[family]).chat
    assert template
    assert trained(template.render(answered("q", answer), add_generation_prompt=False)) == expected
    assert trained(template.render(answered("q", "yes", "r"), True)) == trained(
        template.render(answered("q", "yes", "r", "no"), False)
    ).removesuffix(f"no{template.end_of_turn()}")


def test_a_template_may_mark_what_is_trained(folders: dict[str, Path], tmp_path: Path) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n"
        "{% endfor %}"
    )
    config = json.loads((folders["smollm2"] / "tokenizer_config.json").read_text())
    for path in folders["smollm2"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": source}))
    ours, theirs = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert ours.chat
    for messages in (answered("q", "the answer"), answered("q", " a ", "r", "b\n"), answered("q")):
        expected = theirs.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, flags = ours.encode_segments(ours.chat.render(messages, add_generation_prompt=False))
        assert (ids, [int(flag) for flag in flags]) == (expected["input_ids"], expected["assistant_masks"])


# Refusals


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "has 0 messages"),
        ([{"role": "user"}], "number 1: has role"),
        ([*HI, {}], "number 2: is empty"),
        ([{"role": "user", "content": ["a"]}], "number 1: has role, content"),
        ([HI[0] | {"tool_calls": "x"}], "has role, content, tool_calls"),
        ([{"role": "user<|im_end|>", "content": "a"}], r"role is 'user<\|im_end\|>'"),
    ],
)
def test_messages_of_another_form_are_refused(messages: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ChatTemplate("x", []).render(messages, add_generation_prompt=False)
    assert caught.value.code == USAGE


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('no tools') }}", "cannot render the messages: no tools"),
        ("{% if x", "is not Jinja"),
        ("{{ strftime_now('%Y') }}", "'strftime_now' is undefined .* write a date in place of strftime_now"),
        ("{{ messages.__class__.__mro__ }}", "access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "is not safely callable|access to attribute"),
        ("{% set ns = namespace(_x=1) %}", "'_x' in a namespace"),
        ("{% set ns = namespace() %}{% set ns.__init__ = 1 %}", "'__init__' in a namespace"),
        ("{{ messages | random }}", "No filter named 'random'"),
        ("{{ lipsum() }}", "'lipsum' is undefined"),
        ("{{ range(1000000) | length }}", "Range too big"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content | replace('h', '') }}", "changes the text of the messages"),
    ],
)
def test_a_template_that_is_unsafe_or_cannot_be_rendered_is_refused(source: str, message: str) -> None:
    template = ChatTemplate(source, ["<end>"], where="tokenizer_config.json")
    with pytest.raises(UserError, match=message) as caught:
        template.render(HI, add_generation_prompt=True)
    assert (caught.value.code, caught.value.where) == (DATA, "tokenizer_config.json")
    assert template.end_of_turn() is None


# Folders


def test_where_a_template_is_found(tmp_path: Path) -> None:
    def source() -> str | None:
        found = chat_template.load(tmp_path, [])
        return found and found.source

    assert source() is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "a"}))
    assert source() == "a"
    several = [{"name": "tool_use", "template": "b"}, {"template": "d"}, {"name": "default", "template": "c"}]
    config.write_text(json.dumps({"chat_template": several, "bos_token": {"content": "<s>"}, "add_bos_token": True}))
    assert source() == "c"
    found = chat_template.load(tmp_path, [])
    assert found
    assert found.names == {"bos_token": "<s>"}
    (tmp_path / "chat_template.jinja").write_text("d")
    assert source() == "d"
    (tmp_path / "chat_template.jinja").unlink()
    config.write_text(json.dumps({"chat_template": 5}))
    with pytest.raises(UserError, match="chat_template is 5, not text"):
        source()
