"""The prompt frame `chat`: the chat template of the model's folder; and the token before every text."""

from __future__ import annotations

import json
from itertools import compress
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from llm.common.errors import DATA, UserError
from llm.data.batches import IGNORED
from llm.data.instruction_dataset import InstructionDataset
from llm.data.instruction_lengths import encode_entry
from llm.data.prompts import RESPONSE, Frame, frame_of, make_frame
from llm.data.spam_dataset import SpamDataset
from llm.data.tokenizer import Tokenizer
from tests import tiny_tokenizers

PAIR = {"instruction": "Name a fruit.", "input": "red", "output": "An apple."}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "A pear."},
        {"role": "user", "content": "Another one, a red one!"},
        {"role": "assistant", "content": "An apple."},
    ]
}
ALL = pytest.mark.parametrize("family", tiny_tokenizers.FAMILIES)
ENDS = {"smollm2": "<|im_end|>", "llama3": "<|eot_id|>", "qwen3": "<|im_end|>"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {family: tiny_tokenizers.make(family, root / family) for family in tiny_tokenizers.FAMILIES}


@pytest.fixture
def written(tmp_path: Path, folders: dict[str, Path]) -> Any:
    """Make a function that gives SmolLM2's tokenizer with another template."""

    def write(template: str | None) -> tuple[Tokenizer, Frame]:
        config = json.loads((folders["smollm2"] / "tokenizer_config.json").read_text())
        for name in ("tokenizer.json", "generation_config.json"):
            (tmp_path / name).write_bytes((folders["smollm2"] / name).read_bytes())
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        tokenizer = Tokenizer.load(tmp_path)
        return tokenizer, make_frame("chat", tokenizer)

    return write


def trained(entry: dict[str, Any], frame: Frame, tokenizer: Tokenizer) -> str:
    one = encode_entry(entry, frame, tokenizer)
    return tokenizer.decode(compress(one.ids, one.trained))


@ALL
def test_entries_are_written_by_the_template_of_the_folder(folders: dict[str, Path], family: str) -> None:
    """The prompt is that of transformers, and the row of the training starts with it."""
    ours, theirs = Tokenizer.load(folders[family]), AutoTokenizer.from_pretrained(folders[family])
    frame = make_frame("chat", ours)
    pair = [{"role": "user", "content": "Name a fruit.\n\nred"}, {"role": "assistant", "content": "An apple."}]
    for entry, messages in ((PAIR, pair), (CHAT, CHAT["messages"]), ({"messages": pair}, pair)):
        asked = ours.encode_segments(frame.prompt(entry, header=True))[0]
        assert asked == theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        without = "".join(segment.text for segment in frame.prompt(entry)) + frame.header
        assert without == theirs.apply_chat_template(messages[:-1], add_generation_prompt=True, tokenize=False)
        row = encode_entry(entry, frame, ours)
        whole = theirs.apply_chat_template(messages, return_dict=False)
        assert row.ids == whole[: len(row.ids)]
        assert ours.decode(whole[len(row.ids) :]).strip() == ""  # a line break after the last turn
        assert row.ids[: len(asked)] == asked
        assert row.trained[len(asked) :] == [True] * (len(row.ids) - len(asked))
        assert row.ids[-1] == ours.special[ENDS[family]]


@ALL
def test_every_answer_is_a_target_with_the_end_of_its_turn(folders: dict[str, Path], family: str) -> None:
    tokenizer = Tokenizer.load(folders[family])
    data = InstructionDataset([CHAT, PAIR], tokenizer, 1000, mask_prompt=True, frame=make_frame("chat", tokenizer))
    thought = "<think>\n\n</think>\n\n" * (family == "qwen3")  # of the last answer only
    for targets, text in zip(
        data.batch([0, 1]).targets,
        (f"A pear.{ENDS[family]}{thought}An apple.{ENDS[family]}", f"{thought}An apple.{ENDS[family]}"),
        strict=True,
    ):
        assert tokenizer.decode(targets[targets != IGNORED].tolist()) == text


def test_an_answer_is_taken_without_what_the_template_writes_before_it(folders: dict[str, Path]) -> None:
    frame = make_frame("chat", Tokenizer.load(folders["qwen3"]))
    assert frame.header == "<|im_start|>assistant\n"
    assert frame.extract_answer("<|im_start|>assistant\n<think>\n\n</think>\n\nRed. ") == "Red."
    assert frame.extract_answer(" Red.\n") == "Red."
    assert frame.extract_answer("<think>\nHm.\n</think>\n\nRed.") == "<think>\nHm.\n</think>\n\nRed."


def test_a_chat_may_start_with_the_assistant(folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["smollm2"])
    frame = make_frame("chat", tokenizer)
    entry = {"messages": [{"role": "assistant", "content": "Hello."}]}
    text = "".join(segment.text for segment in frame.prompt(entry, header=True))
    assert text == "<|im_start|>system\nYou answer briefly.<|im_end|>\n<|im_start|>assistant\n"


def test_an_answer_that_the_template_does_not_end_ends_with_the_end_of_text(written: Any) -> None:
    template = "{% for m in messages %}{{ m.role + '\\n' + m.content + '\\n' }}{% endfor %}"
    tokenizer, frame = written(template + "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}")
    assert trained(PAIR, frame, tokenizer) == "An apple." + tokenizer.end
    tokenizer, frame = written(template)  # nothing asks the model to answer, so it writes that too
    assert trained(PAIR, frame, tokenizer) == "assistant\nAn apple." + tokenizer.end
    assert frame.extract_answer("assistant\nAn apple.\n") == "An apple."


def test_an_answer_may_contain_the_header_of_the_template(written: Any) -> None:
    template = "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    _, frame = written(template + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
    assert frame.extract_answer("assistant: I am an assistant: ask.") == "I am an assistant: ask."


def test_a_template_may_want_a_system_message(written: Any) -> None:
    wants = "{% if messages[0].role != 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    template = wants + "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
    _, frame = written(template + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
    assert frame.header == "assistant: "
    assert frame.extract_answer("assistant: Red.") == "Red."


def test_all_entries_that_the_template_refuses_are_listed(written: Any) -> None:
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer, frame = written(template + "{{ m.content }}<|im_end|>{% endfor %}")
    with pytest.raises(UserError) as caught:
        InstructionDataset([PAIR, CHAT, PAIR, CHAT], tokenizer, 1000, True, frame, "train.json")
    assert [(one.where, one.code) for one in caught.value.problems] == [  # type: ignore[attr-defined]
        ("train.json: entry 2", DATA),
        ("train.json: entry 4", DATA),
    ]
    assert "no system" in caught.value.what
    tokenizer, frame = written("{{ messages[0].content }}<|im_end|>")
    with pytest.raises(UserError, match=r"train.json: entry 1: the chat template writes no answer"):
        InstructionDataset([PAIR], tokenizer, 1000, True, frame, "train.json")


def test_a_folder_without_a_template_is_refused(written: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"finetune_instruct.prompt: chat, but the model's folder has no chat template"):
        written(None)
    (tmp_path / "config.json").write_text('{"prompt": "chat"}')
    with pytest.raises(UserError, match=r"config.json: prompt: chat, but the model's folder has no chat template"):
        frame_of(tmp_path, Tokenizer.load(tmp_path))


def test_a_model_from_elsewhere_is_asked_by_its_template(tmp_path: Path, folders: dict[str, Path]) -> None:
    tokenizer = Tokenizer.load(folders["qwen3"])
    for config, header in (({}, "<|im_start|>assistant\n"), ({"prompt": "alpaca"}, RESPONSE)):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert frame_of(tmp_path, tokenizer).header == header


# The token before every text


@ALL
def test_a_token_before_every_text_stands_once(folders: dict[str, Path], family: str) -> None:
    tokenizer = Tokenizer.load(folders[family])
    first = [tokenizer.bos] if family == "llama3" else []
    assert (tokenizer.begin != "") == bool(first)
    assert tokenizer.encode_prompt("the user") == [*first, *tokenizer.encode("the user")]
    assert SpamDataset([0, 1], ["the user", ""], tokenizer, 4).ids == [
        [*first, *tokenizer.encode("the user")][:4],
        first,
    ]
    for prompt in ("alpaca", "phi3", "none", "chat"):
        frame = make_frame(prompt, tokenizer)  # type: ignore[arg-type]
        for entry in (PAIR, CHAT):
            row = encode_entry(entry, frame, tokenizer)
            asked, _ = tokenizer.encode_segments(frame.prompt(entry, header=True))
            for ids in (row.ids, asked):
                assert [n for n, token in enumerate(ids) if token == tokenizer.bos] == [0] * len(first)
