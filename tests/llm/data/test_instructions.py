"""Instructions in normal form: invalid entries, and splits."""

import json
from pathlib import Path

import pytest

from llm.common.errors import DATA, UserError, UserErrors
from llm.data.instructions import InstructionsConfig, read_entries, refuse_empty, split_entries

BOOK = (0.85, 0.1)  # fractions for training and test
ENTRY = {"instruction": "Name a colour.", "input": "", "output": "Red."}


def write(folder: Path, value) -> Path:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / "data.json").write_text(text, "utf-8")
    return folder / "data.json"


def refused(do, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        do(*arguments)
    assert raised.value.code == DATA
    return str(raised.value)


# --- the real file ---


def test_the_real_file_splits_as_published(mirror):
    entries = read_entries(mirror / "instruction-data.json")
    parts = split_entries(entries, *BOOK)
    assert {split: len(part) for split, part in parts.items()} == {"train": 935, "test": 110, "validation": 55}
    assert [*parts["train"], *parts["test"], *parts["validation"]] == entries
    assert sum(not entry["input"] for entry in entries) == 775


def test_the_first_test_entry_is_that_of_the_book(mirror):
    entry = split_entries(read_entries(mirror / "instruction-data.json"), *BOOK)["test"][0]
    assert entry["instruction"] == "Rewrite the sentence using a simile."


# --- reading ---


def test_valid_entries_are_read_unchanged(tmp_path):
    entries = [ENTRY, ENTRY | {"input": "NA", "output": "null <|endoftext|>\u2028\x85 é 🙂"}]
    assert read_entries(write(tmp_path, entries)) == entries


@pytest.mark.parametrize(
    "entry",
    [
        {key: value for key, value in ENTRY.items() if key != "output"},
        ENTRY | {"outputs": "x"},
        ENTRY | {"output": 7},
        ENTRY | {"input": None},
        ENTRY | {"output": " \n"},
        ENTRY | {"instruction": ""},
        "text",
        [ENTRY],
    ],
)
def test_an_invalid_entry_is_reported_with_its_number(entry, tmp_path):
    path = write(tmp_path, [ENTRY, ENTRY, entry, ENTRY])
    assert refused(read_entries, path).startswith(f"{path}: entry 3: is not an object of the texts instruction, ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "contains dict, not a list of entries"),
        ("[]", "is an empty list"),
        ('"text"', "contains str, not a list of entries"),
        ("", "the file is empty"),
        ('[{"instruction": "a", "input": "", "output": "b", "output": "c"}]', "key 'output' is used twice"),
        ('[{"instruction": "a", "input": "", "output": NaN}]', "NaN is not a finite number"),
        ('[{"instruction": "a", "input": "", "output": "b"}', ":1: not JSON"),
    ],
)
def test_a_file_that_is_not_a_list_of_entries_is_refused(text, said, tmp_path):
    path = write(tmp_path, text)
    message = refused(read_entries, path)
    assert message.startswith(str(path))
    assert said in message


CHAT = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def test_chats_are_read_unchanged(tmp_path):
    entries = [ENTRY, {"messages": CHAT}, {"messages": CHAT[1:] * 2}]
    assert read_entries(write(tmp_path, entries)) == entries


@pytest.mark.parametrize(
    "entry",
    [
        {"messages": CHAT, "id": 1},
        {"messages": []},
        {"messages": CHAT[:2]},
        {"messages": ["q", *CHAT]},
        {"messages": [CHAT[1] | {"role": "human"}, CHAT[2]]},
        {"messages": [CHAT[1], CHAT[2] | {"weight": 1}]},
    ],
)
def test_an_invalid_chat_is_reported(entry, tmp_path):
    path = write(tmp_path, [ENTRY, entry])
    assert refused(read_entries, path).startswith(f"{path}: entry 2: is not an object of the texts instruction, ")


def test_empty_entries_are_refused_together():
    with pytest.raises(UserErrors) as caught:
        refuse_empty([2, 5], "file")
    assert [problem.where for problem in caught.value.problems] == ["file: entry 2", "file: entry 5"]
    assert caught.value.fix.endswith("set tokenize.instructions.empty to skip")
    refuse_empty([], "file")


def test_a_surrogate_pair_in_the_json_is_one_character(tmp_path):
    assert read_entries(write(tmp_path, json.dumps([ENTRY | {"output": "🙂"}], ensure_ascii=True)))[0]["output"] == "🙂"


# --- splitting ---


def test_an_empty_split_is_refused():
    assert "the test split: empty, with 9 entries in all" in refused(split_entries, [ENTRY] * 9, *BOOK)
    assert [len(part) for part in split_entries([ENTRY] * 20, *BOOK).values()] == [17, 2, 1]


def config(train: float, test: float, max_tokens: int | None = None) -> InstructionsConfig:
    return InstructionsConfig("guess", "guess", (), "refuse", max_tokens, "refuse", train, test)


@pytest.mark.parametrize(("train", "test", "wrong"), [(0.9, 0.1, 1), (0.0, 0.1, 1), (0.5, 1.0, 2), (0.85, 0.1, 0)])
def test_fractions_must_leave_entries_for_each_split(train, test, wrong):
    assert len(list(config(train, test).problems())) == wrong


def test_the_sum_of_too_large_fractions_is_reported():
    ((_, what, _),) = config(0.9, 0.2).problems()
    assert what == "its sum with train_fraction is 1.1"


def test_a_limit_of_tokens_is_above_0():
    assert [name for name, *_ in config(*BOOK, max_tokens=0).problems()] == ["max_tokens"]
    assert list(config(*BOOK, max_tokens=8).problems()) == []
