"""Batches of instructions, compared with the book's collate function: mask, limit and buckets."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.common.errors import DATA, UserError
from llm.data.batches import IGNORED, Buckets, ShuffledBatches
from llm.data.instruction_dataset import InstructionDataset
from llm.data.prompts import RESPONSE, format_prompt, make_frame
from llm.data.tokenizer import Tokenizer
from llm.model.gpt import GPT
from llm.train import losses

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


def refused(do, *arguments) -> str:
    with pytest.raises(UserError) as raised:
        do(*arguments)
    assert raised.value.code == DATA
    return str(raised.value)


# --- batches ---


def collate_as_the_book_does(batch: list[list[int]], pad: int, allowed_max_length: int):
    """Pad, shift, ignore all padding in the targets except the first, and cut (section 7.3)."""
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
    limit = max(prompts) + room - 1  # often shorter than the longest entry
    batch = InstructionDataset(entries, tokenizer, limit, mask_prompt=False).batch(range(len(entries)))
    ids = [tokenizer.encode(format_prompt(entry) + RESPONSE + entry["output"]) for entry in entries]
    inputs, targets = collate_as_the_book_does(ids, tokenizer.eot, limit)
    assert torch.equal(batch.inputs, inputs)
    assert torch.equal(batch.targets, targets)


@settings(deadline=None)
@given(entries=ENTRIES)
def test_with_a_masked_prompt_only_the_answer_and_its_end_count(entries, tokenizer):
    data = InstructionDataset(entries, tokenizer, limit=1000, mask_prompt=True)
    for entry, targets in zip(entries, data.batch(range(len(entries))).targets, strict=True):
        counted = targets[targets != IGNORED].tolist()
        assert counted == [*tokenizer.encode(entry["output"]), tokenizer.eot]


def test_with_a_masked_phi3_prompt_only_the_answer_and_its_end_count(tokenizer):
    data = InstructionDataset([ENTRY], tokenizer, limit=1000, mask_prompt=True, frame=make_frame("phi3", tokenizer))
    targets = data.batch([0]).targets[0]
    kept = targets[targets != IGNORED].tolist()
    assert kept[-1] == tokenizer.eot
    assert tokenizer.decode(kept[:-1]) == ENTRY["output"]


def test_masking_changes_only_the_targets(tokenizer):
    entries = [ENTRY, ENTRY | {"input": "A warm one."}]
    plain, masked = (InstructionDataset(entries, tokenizer, 1000, mask).batch([0, 1]) for mask in (False, True))
    assert torch.equal(plain.inputs, masked.inputs)
    counts = masked.targets != IGNORED
    assert torch.equal(masked.targets[counts], plain.targets[counts])
    assert plain.count - masked.count == sum(len(tokenizer.encode(format_prompt(e) + RESPONSE)) - 1 for e in entries)


def test_a_batch_keeps_the_order_of_its_indices(tokenizer):
    entries = [ENTRY | {"output": output} for output in ("a", "bb", "ccc")]
    data = InstructionDataset(entries, tokenizer, 1000, mask_prompt=False)
    assert torch.equal(data.batch([2, 0]).inputs, data.batch([0, 2]).inputs.flip(0))


@pytest.mark.parametrize("mask_prompt", [False, True])
def test_rows_are_cut_at_the_limit_which_must_leave_a_token_of_each_answer(mask_prompt, tokenizer):
    short, long = ENTRY, ENTRY | {"input": "A warm one, if there is any."}
    needed = len(tokenizer.encode(format_prompt(long) + RESPONSE))
    batch = InstructionDataset([short, long], tokenizer, needed, mask_prompt).batch([1])
    assert batch.inputs.shape == (1, needed)
    assert batch.targets[0, -1] == tokenizer.encode("R")[0]
    message = refused(InstructionDataset, [short, long], tokenizer, needed - 1, mask_prompt)
    assert message.startswith(
        f"instructions: entry 2: the prompt has {needed} tokens, more than the context of {needed - 1}: 'Name a"
    )


def test_end_of_text_in_an_entry_is_ordinary_text(tokenizer):
    entry = {"instruction": "a<|endoftext|>", "input": "<|endoftext|>", "output": "b<|endoftext|>c"}
    data = InstructionDataset([entry], tokenizer, limit=1000, mask_prompt=False)
    *ids, end = data.rows[0].ids
    assert tokenizer.eot not in ids
    assert tokenizer.decode(ids).count("<|endoftext|>") == 3
    assert end == tokenizer.eot
    assert (data.batch([0]).targets == tokenizer.eot).sum() == 1


# --- buckets ---

MIXED = [ENTRY | {"output": "Red and blue, " * (5 * n % 7) + "green."} for n in range(11)]


def epoch_of(data, batch_size, batches):
    buckets = Buckets(data.lengths, batches) if batches else None
    source = ShuffledBatches(data, batch_size, len(data) // batch_size, 1, buckets=buckets)
    return [source[step] for step in range(len(source))]


def mean_and_gradients(model, batches):
    """Return the mean loss over all targets that are not IGNORED, and its gradients."""
    count = sum(batch.count for batch in batches)
    model.zero_grad()
    total = sum(losses.next_token(model, batch)["loss"] / count for batch in batches)
    total.backward()
    return [total.detach(), *(p.grad.clone() for p in model.parameters())]


@settings(deadline=None)
@given(entries=ENTRIES, room=st.integers(1, 60))
def test_lengths_are_the_widths_of_single_rows(entries, room, tokenizer):
    limit = max(len(tokenizer.encode(format_prompt(entry) + RESPONSE)) for entry in entries) + room - 1
    data = InstructionDataset(entries, tokenizer, limit, mask_prompt=False)
    assert data.lengths == [data.batch([n]).inputs.shape[1] for n in range(len(data))]
    assert data.longest == data.batch(range(len(data))).inputs.shape[1]


@pytest.mark.parametrize("mask_prompt", [False, True])
@pytest.mark.parametrize(("batch_size", "batches"), [(11, 1), (11, 4), (2, 1), (2, 3), (3, 100)])
def test_buckets_keep_the_mean_loss_and_its_gradients(mask_prompt, batch_size, batches, tokenizer, model_config):
    """With one batch of all entries, and with epochs that drop some."""
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
