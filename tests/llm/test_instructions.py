"""Instructions: the book's prompt to the character, its split, and its collate function, written a second time here."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm import losses
from llm.batches import IGNORED, Buckets, Shuffled
from llm.errors import DATA, UserError
from llm.instruction_dataset import InstructionDataset
from llm.instructions import (
    RESPONSE,
    InstructionsConfig,
    extract_answer,
    format_prompt,
    prompt_form,
    read_entries,
    split_entries,
)
from llm.model import GPT
from llm.tokenizer import Tokenizer

BOOK = InstructionsConfig(train_fraction=0.85, test_fraction=0.1, empty="refuse")
ENTRY = {"instruction": "Name a colour.", "input": "", "output": "Red."}
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
ENTRIES = st.lists(
    st.fixed_dictionaries({"instruction": TEXTS.map("i{}".format), "input": TEXTS, "output": TEXTS.map("o{}".format)}),
    min_size=1,
    max_size=4,
)


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


def test_empty_entries_are_left_out_where_that_is_asked_for(tmp_path):
    path = tmp_path / "entries.json"
    path.write_text(json.dumps([ENTRY, ENTRY | {"output": " "}, ENTRY | {"instruction": ""}, ENTRY | {"input": ""}]))
    assert read_entries(path, skip_empty=True) == [ENTRY, ENTRY | {"input": ""}]
    with pytest.raises(UserError, match=r"entry 2: output is empty .* set tokenize\.instructions\.empty to skip"):
        read_entries(path)
    path.write_text(json.dumps([ENTRY | {"output": ""}]))
    with pytest.raises(UserError, match="all 1 entries are empty"):
        read_entries(path, skip_empty=True)
    path.write_text(json.dumps([ENTRY, ENTRY | {"output": 5}]))
    with pytest.raises(UserError, match="entry 2: output is 5, not a text"):
        read_entries(path, skip_empty=True)


def test_the_prompt_is_the_books_to_the_character():
    assert format_prompt(ENTRY) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a colour."
    )


def test_an_input_follows_the_instruction():
    assert format_prompt(ENTRY | {"input": "A warm one."}) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a colour.\n\n### Input:\nA warm one."
    )


def test_in_training_the_response_follows_to_the_character(tokenizer):
    data = InstructionDataset([ENTRY], tokenizer, limit=1000, mask_prompt=False)
    assert tokenizer.decode(data.ids[0]) == format_prompt(ENTRY) + "\n\n### Response:\nRed."


def test_the_phi3_prompt_to_the_character(tokenizer):
    assert format_prompt(ENTRY, "phi3") == f"<|user|>\n{ENTRY['instruction']}"
    with_input = ENTRY | {"input": "A warm one."}
    data = InstructionDataset([ENTRY, with_input], tokenizer, limit=1000, mask_prompt=False, form="phi3")
    assert [tokenizer.decode(ids) for ids in data.ids] == [
        f"<|user|>\n{ENTRY['instruction']}\n<|assistant|>:\n{ENTRY['output']}",
        f"<|user|>\n{ENTRY['instruction']}\nA warm one.\n<|assistant|>:\n{ENTRY['output']}",
    ]


def test_with_a_masked_phi3_prompt_the_answer_and_its_end_count_and_nothing_else(tokenizer):
    data = InstructionDataset([ENTRY], tokenizer, limit=1000, mask_prompt=True, form="phi3")
    targets = data.batch([0]).targets[0]
    kept = targets[targets != IGNORED].tolist()
    assert kept[-1] == tokenizer.eot
    assert tokenizer.decode(kept[:-1]) == ENTRY["output"]


def test_a_phi3_answer_is_what_stands_after_its_own_header():
    assert extract_answer("\n<|assistant|>:\n It is red. ", "phi3") == "It is red."
    assert extract_answer("<|assistant|>: red") == "<|assistant|>: red"


def test_a_model_folder_says_which_prompts_it_was_taught_with(tmp_path):
    config = tmp_path / "config.json"
    for text, form in [("{}", "alpaca"), ('{"prompt": "alpaca"}', "alpaca"), ('{"prompt": "phi3"}', "phi3")]:
        config.write_text(text)
        assert prompt_form(tmp_path) == form
    for text in ('{"prompt": "llama"}', '{"prompt": null}'):
        config.write_text(text)
        assert "which is no form of ours" in refused(prompt_form, tmp_path)


def test_the_answer_is_what_stands_after_the_header():
    assert extract_answer("\n\n### Response:\nRed. \n") == "Red."
    assert extract_answer("Red.") == "Red."


# --- the real file ---


def test_the_real_file_splits_as_published(mirror):
    entries = read_entries(mirror / "instruction-data.json")
    parts = split_entries(entries, BOOK)
    assert {split: len(part) for split, part in parts.items()} == {"train": 935, "test": 110, "validation": 55}
    assert [*parts["train"], *parts["test"], *parts["validation"]] == entries
    assert sum(not entry["input"] for entry in entries) == 775


def test_the_first_test_entry_is_the_books(mirror):
    entry = split_entries(read_entries(mirror / "instruction-data.json"), BOOK)["test"][0]
    assert entry["instruction"] == "Rewrite the sentence using a simile."


# --- reading ---


def test_good_entries_are_taken_as_they_are(tmp_path):
    entries = [ENTRY, ENTRY | {"input": "NA", "output": "null <|endoftext|>\u2028\x85 é 🙂"}]
    assert read_entries(write(tmp_path, entries)) == entries


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({key: value for key, value in ENTRY.items() if key != "output"}, "missing 'output'"),
        (ENTRY | {"outputs": "x"}, "unknown key 'outputs'"),
        (ENTRY | {"output": 7}, "output is 7, not a text"),
        (ENTRY | {"input": None}, "input is None, not a text"),
        (ENTRY | {"output": " \n"}, "output is empty"),
        (ENTRY | {"instruction": ""}, "instruction is empty"),
        (ENTRY | {"output": "a\ud800b"}, "output holds a lone surrogate"),
        (ENTRY | {"input": "\udfff"}, "input holds a lone surrogate"),
        ("text", "is 'text', not an object"),
        ([ENTRY], "not an object"),
    ],
)
def test_a_fault_is_named_by_the_number_of_its_entry(entry, said, tmp_path):
    path = write(tmp_path, [ENTRY, ENTRY, entry, ENTRY])
    message = refused(read_entries, path)
    assert message.startswith(f"{path}: entry 3: ")
    assert said in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "holds dict, not a list of entries"),
        ("[]", "is an empty list"),
        ('"text"', "holds str, not a list of entries"),
        ("", "the file is empty"),
        ('[{"instruction": "a", "input": "", "output": "b", "output": "c"}]', "key 'output' stands twice"),
        ('[{"instruction": "a", "input": "", "output": NaN}]', "NaN is not a finite number"),
        ('[{"instruction": "a", "input": "", "output": "b"}', ":1: not JSON"),
    ],
)
def test_a_file_that_is_no_list_of_entries_is_refused(text, said, tmp_path):
    path = write(tmp_path, text)
    message = refused(read_entries, path)
    assert message.startswith(str(path))
    assert said in message


def test_a_surrogate_pair_in_the_json_is_the_character_it_stands_for(tmp_path):
    assert read_entries(write(tmp_path, json.dumps([ENTRY | {"output": "🙂"}], ensure_ascii=True)))[0]["output"] == "🙂"


def test_a_foreign_key_is_refused(tmp_path):
    path = write(tmp_path, [ENTRY | {"model_response": ""}])
    assert "unknown key 'model_response'" in refused(read_entries, path)


# --- splitting ---


def test_an_empty_part_is_refused():
    assert "the test split: no entry is left for it of 9" in refused(split_entries, [ENTRY] * 9, BOOK)
    assert [len(part) for part in split_entries([ENTRY] * 20, BOOK).values()] == [17, 2, 1]


@pytest.mark.parametrize(("train", "test", "wrong"), [(0.9, 0.1, 1), (0.0, 0.1, 1), (0.5, 1.0, 2), (0.85, 0.1, 0)])
def test_fractions_leave_something_for_every_part(train, test, wrong):
    assert len(list(InstructionsConfig(train, test, "refuse").problems())) == wrong


# --- batches ---


def collate_as_the_book_does(batch: list[list[int]], pad: int, allowed_max_length: int):
    """Section 7.3: pad to the longest plus one, shift, ignore all padding in the targets but the first, cut."""
    longest = max(len(item) + 1 for item in batch)
    inputs_list, targets_list = [], []
    for item in batch:
        padded = [*item, pad]
        padded += [pad] * (longest - len(padded))
        inputs = torch.tensor(padded[:-1])
        targets = torch.tensor(padded[1:])
        paddings = torch.nonzero(targets == pad).squeeze(-1)
        if len(paddings) > 1:
            targets[paddings[1:]] = IGNORED
        inputs_list.append(inputs[:allowed_max_length])
        targets_list.append(targets[:allowed_max_length])
    return torch.stack(inputs_list), torch.stack(targets_list)


@settings(deadline=None)
@given(entries=ENTRIES, room=st.integers(1, 60))
def test_a_batch_equals_the_books_collate(entries, room, tokenizer):
    prompts = [len(tokenizer.encode(format_prompt(entry) + RESPONSE)) for entry in entries]
    limit = max(prompts) + room - 1  # often less than the longest entry takes
    batch = InstructionDataset(entries, tokenizer, limit, mask_prompt=False).batch(range(len(entries)))
    ids = [tokenizer.encode(format_prompt(entry) + RESPONSE + entry["output"]) for entry in entries]
    inputs, targets = collate_as_the_book_does(ids, tokenizer.eot, limit)
    assert torch.equal(batch.inputs, inputs)
    assert torch.equal(batch.targets, targets)


@settings(deadline=None)
@given(entries=ENTRIES)
def test_with_a_masked_prompt_the_answer_and_its_end_count_and_nothing_else(entries, tokenizer):
    data = InstructionDataset(entries, tokenizer, limit=1000, mask_prompt=True)
    for entry, targets in zip(entries, data.batch(range(len(entries))).targets, strict=True):
        counted = targets[targets != IGNORED].tolist()
        assert counted == [*tokenizer.encode(entry["output"]), tokenizer.eot]


def test_masking_changes_the_targets_only(tokenizer):
    entries = [ENTRY, ENTRY | {"input": "A warm one."}]
    plain, masked = (InstructionDataset(entries, tokenizer, 1000, mask).batch([0, 1]) for mask in (False, True))
    assert torch.equal(plain.inputs, masked.inputs)
    counts = masked.targets != IGNORED
    assert torch.equal(masked.targets[counts], plain.targets[counts])
    assert plain.count - masked.count == sum(len(tokenizer.encode(format_prompt(e) + RESPONSE)) - 1 for e in entries)


def test_the_order_of_a_batch_is_the_one_asked_for(tokenizer):
    entries = [ENTRY | {"output": output} for output in ("a", "bb", "ccc")]
    data = InstructionDataset(entries, tokenizer, 1000, mask_prompt=False)
    assert torch.equal(data.batch([2, 0]).inputs, data.batch([0, 2]).inputs.flip(0))


@pytest.mark.parametrize("mask_prompt", [False, True])
def test_rows_are_cut_at_the_limit_and_one_token_of_every_answer_must_be_left(mask_prompt, tokenizer):
    short, long = ENTRY, ENTRY | {"input": "A warm one, if there is any."}
    needed = len(tokenizer.encode(format_prompt(long) + RESPONSE))
    batch = InstructionDataset([short, long], tokenizer, needed, mask_prompt).batch([1])
    assert batch.inputs.shape == (1, needed)
    assert batch.targets[0, -1] == tokenizer.encode("R")[0]
    message = refused(InstructionDataset, [short, long], tokenizer, needed - 1, mask_prompt)
    assert message.startswith(
        f"instructions: entry 2: its prompt alone takes {needed} tokens of a context of {needed - 1}: 'Name a"
    )


def test_end_of_text_in_an_entry_is_ordinary_text(tokenizer):
    entry = {"instruction": "a<|endoftext|>", "input": "<|endoftext|>", "output": "b<|endoftext|>c"}
    data = InstructionDataset([entry], tokenizer, limit=1000, mask_prompt=False)
    assert tokenizer.eot not in data.ids[0]
    assert tokenizer.decode(data.ids[0]).count("<|endoftext|>") == 3
    assert (data.batch([0]).targets == tokenizer.eot).sum() == 1


# --- buckets ---

MIXED = [ENTRY | {"output": "Red and blue, " * (5 * n % 7) + "green."} for n in range(11)]


def epoch_of(data, batch_size, batches):
    buckets = Buckets(data.lengths, batches) if batches else None
    source = Shuffled(data, batch_size, len(data) // batch_size, 1, buckets=buckets)
    return [source[step] for step in range(len(source))]


def mean_and_gradients(model, batches):
    """Of the loss over all targets that count."""
    count = sum(batch.count for batch in batches)
    model.zero_grad()
    total = sum(losses.next_token(model, batch)["loss"] / count for batch in batches)
    total.backward()
    return [total.detach(), *(p.grad.clone() for p in model.parameters())]


@settings(deadline=None)
@given(entries=ENTRIES, room=st.integers(1, 60))
def test_lengths_are_the_widths_of_the_rows_alone(entries, room, tokenizer):
    limit = max(len(tokenizer.encode(format_prompt(entry) + RESPONSE)) for entry in entries) + room - 1
    data = InstructionDataset(entries, tokenizer, limit, mask_prompt=False)
    assert data.lengths == [data.batch([n]).inputs.shape[1] for n in range(len(data))]
    assert data.longest == data.batch(range(len(data))).inputs.shape[1]


@pytest.mark.parametrize("mask_prompt", [False, True])
@pytest.mark.parametrize(("batch_size", "batches"), [(11, 1), (11, 4), (2, 1), (2, 3), (3, 100)])
def test_buckets_leave_the_mean_loss_and_its_gradients_as_they_were(
    mask_prompt, batch_size, batches, tokenizer, model_config
):
    """One batch of all, and the batches of an epoch with what is left out of it."""
    data = InstructionDataset(MIXED, tokenizer, 200, mask_prompt)
    torch.manual_seed(1)
    model = GPT(model_config(context_length=200)).double()
    plain, bucketed = (epoch_of(data, batch_size, n) for n in (None, batches))
    torch.testing.assert_close(mean_and_gradients(model, plain), mean_and_gradients(model, bucketed))
    assert sum(batch.count for batch in plain) == sum(batch.count for batch in bucketed)


def test_buckets_save_padding(tokenizer):
    mixed, even = (InstructionDataset(some, tokenizer, 200, mask_prompt=True) for some in (MIXED, [ENTRY] * 11))
    tokens = [[sum(batch.tokens for batch in epoch_of(data, 2, n)) for n in (None, 5)] for data in (mixed, even)]
    assert tokens[0][1] < tokens[0][0]
    assert tokens[1][1] == tokens[1][0]
