"""Instructions: the prompts of the book, invalid entries, and splits."""

import json
from pathlib import Path

import pytest

from llm.common.errors import DATA, UserError, UserErrors
from llm.data.instruction_dataset import InstructionDataset
from llm.data.instructions import InstructionsConfig, read_entries, split_entries
from llm.data.prompts import extract_answer, format_prompt, prompt_form
from llm.data.tokenizer import Tokenizer

BOOK = InstructionsConfig(train_fraction=0.85, test_fraction=0.1, empty="refuse")
ENTRY = {"instruction": "Name a colour.", "input": "", "output": "Red."}


@pytest.fixture(scope="module")
def tokenizer(vocabulary) -> Tokenizer:
    return Tokenizer.load(vocabulary)


def write(folder: Path, value) -> Path:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / "data.json").write_text(text, "utf-8")
    return folder / "data.json"


def refused(do, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        do(*arguments)
    assert raised.value.code == DATA
    return str(raised.value)


# --- the prompt ---


def test_empty_entries_are_left_out_on_request(tmp_path):
    path = tmp_path / "entries.json"
    path.write_text(json.dumps([ENTRY, ENTRY | {"output": " "}, ENTRY | {"instruction": ""}, ENTRY | {"input": ""}]))
    assert read_entries(path, skip_empty=True) == [ENTRY, ENTRY | {"input": ""}]
    with pytest.raises(UserErrors) as caught:
        read_entries(path)
    assert [problem.where for problem in caught.value.problems] == [f"{path}: entry 2", f"{path}: entry 3"]
    assert [problem.what for problem in caught.value.problems] == ["output is empty", "instruction is empty"]
    assert caught.value.fix.endswith("set tokenize.instructions.empty to skip")
    path.write_text(json.dumps([ENTRY | {"output": ""}]))
    with pytest.raises(UserError, match="all 1 entries are empty"):
        read_entries(path, skip_empty=True)
    path.write_text(json.dumps([ENTRY, ENTRY | {"output": 5}]))
    with pytest.raises(UserError, match="entry 2: output is 5, not a string"):
        read_entries(path, skip_empty=True)


def test_the_prompt_is_that_of_the_book():
    assert format_prompt(ENTRY) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a colour."
    )


def test_an_input_follows_the_instruction():
    assert format_prompt(ENTRY | {"input": "A warm one."}) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a colour.\n\n### Input:\nA warm one."
    )


def test_in_training_the_response_follows_the_prompt(tokenizer):
    data = InstructionDataset([ENTRY], tokenizer, limit=1000, mask_prompt=False)
    assert tokenizer.decode(data.ids[0]) == format_prompt(ENTRY) + "\n\n### Response:\nRed."


def test_the_phi3_prompt(tokenizer):
    assert format_prompt(ENTRY, "phi3") == f"<|user|>\n{ENTRY['instruction']}"
    with_input = ENTRY | {"input": "A warm one."}
    data = InstructionDataset([ENTRY, with_input], tokenizer, limit=1000, mask_prompt=False, form="phi3")
    assert [tokenizer.decode(ids) for ids in data.ids] == [
        f"<|user|>\n{ENTRY['instruction']}\n<|assistant|>:\n{ENTRY['output']}",
        f"<|user|>\n{ENTRY['instruction']}\nA warm one.\n<|assistant|>:\n{ENTRY['output']}",
    ]


def test_a_phi3_answer_follows_the_phi3_header():
    assert extract_answer("\n<|assistant|>:\n It is red. ", "phi3") == "It is red."
    assert extract_answer("<|assistant|>: red") == "<|assistant|>: red"


def test_the_prompt_format_is_read_from_the_model_folder(tmp_path):
    config = tmp_path / "config.json"
    for text, form in [("{}", "alpaca"), ('{"prompt": "alpaca"}', "alpaca"), ('{"prompt": "phi3"}', "phi3")]:
        config.write_text(text)
        assert prompt_form(tmp_path) == form
    for text in ('{"prompt": "llama"}', '{"prompt": null}'):
        config.write_text(text)
        assert "not a known prompt format" in refused(prompt_form, tmp_path)


def test_the_answer_follows_the_header():
    assert extract_answer("\n\n### Response:\nRed. \n") == "Red."
    assert extract_answer("Red.") == "Red."


# --- the real file ---


def test_the_real_file_splits_as_published(mirror):
    entries = read_entries(mirror / "instruction-data.json")
    parts = split_entries(entries, BOOK)
    assert {split: len(part) for split, part in parts.items()} == {"train": 935, "test": 110, "validation": 55}
    assert [*parts["train"], *parts["test"], *parts["validation"]] == entries
    assert sum(not entry["input"] for entry in entries) == 775


def test_the_first_test_entry_is_that_of_the_book(mirror):
    entry = split_entries(read_entries(mirror / "instruction-data.json"), BOOK)["test"][0]
    assert entry["instruction"] == "Rewrite the sentence using a simile."


# --- reading ---


def test_valid_entries_are_read_unchanged(tmp_path):
    entries = [ENTRY, ENTRY | {"input": "NA", "output": "null <|endoftext|>\u2028\x85 é 🙂"}]
    assert read_entries(write(tmp_path, entries)) == entries


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({key: value for key, value in ENTRY.items() if key != "output"}, "missing 'output'"),
        (ENTRY | {"outputs": "x"}, "unknown key 'outputs'"),
        (ENTRY | {"output": 7}, "output is 7, not a string"),
        (ENTRY | {"input": None}, "input is None, not a string"),
        (ENTRY | {"output": " \n"}, "output is empty"),
        (ENTRY | {"instruction": ""}, "instruction is empty"),
        (ENTRY | {"output": "a\ud800b"}, "output contains a lone surrogate"),
        (ENTRY | {"input": "\udfff"}, "input contains a lone surrogate"),
        ("text", "is 'text', not an object"),
        ([ENTRY], "not an object"),
    ],
)
def test_an_invalid_entry_is_reported_with_its_number(entry, said, tmp_path):
    path = write(tmp_path, [ENTRY, ENTRY, entry, ENTRY])
    message = refused(read_entries, path)
    assert message.startswith(f"{path}: entry 3: ")
    assert said in message


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


def test_a_surrogate_pair_in_the_json_is_one_character(tmp_path):
    assert read_entries(write(tmp_path, json.dumps([ENTRY | {"output": "🙂"}], ensure_ascii=True)))[0]["output"] == "🙂"


def test_an_unknown_key_is_refused(tmp_path):
    path = write(tmp_path, [ENTRY | {"model_response": ""}])
    assert "unknown key 'model_response'" in refused(read_entries, path)


# --- splitting ---


def test_an_empty_split_is_refused():
    assert "the test split: empty, with 9 entries in all" in refused(split_entries, [ENTRY] * 9, BOOK)
    assert [len(part) for part in split_entries([ENTRY] * 20, BOOK).values()] == [17, 2, 1]


@pytest.mark.parametrize(("train", "test", "wrong"), [(0.9, 0.1, 1), (0.0, 0.1, 1), (0.5, 1.0, 2), (0.85, 0.1, 0)])
def test_fractions_must_leave_entries_for_each_split(train, test, wrong):
    assert len(list(InstructionsConfig(train, test, "refuse").problems())) == wrong


def test_the_sum_of_too_large_fractions_is_reported():
    ((_, what, _),) = InstructionsConfig(0.9, 0.2, "refuse").problems()
    assert what == "its sum with train_fraction is 1.1"
