"""Batches of labelled messages: padding on the right, width and limit."""

import pytest
import torch

from llm.data.spam_dataset import SpamDataset, pad_right
from llm.data.tokenizer import Tokenizer


@pytest.fixture
def tokenizer(vocabulary) -> Tokenizer:
    return Tokenizer.load(vocabulary)


def test_messages_are_padded_on_the_right_to_the_longest_of_the_batch(tokenizer):
    data = SpamDataset([1, 0, 1], ["ab", "abcd", "abcdefgh"], tokenizer, limit=16)
    batch = data.batch([1, 0])
    ids = [tokenizer.encode("abcd"), tokenizer.encode("ab")]
    pad = [tokenizer.eot] * (len(ids[0]) - len(ids[1]))
    assert batch.inputs.tolist() == [ids[0], ids[1] + pad]
    assert (batch.targets.tolist(), batch.lengths.tolist()) == ([0, 1], [len(ids[0]), len(ids[1])])


def test_with_a_width_every_batch_is_padded_or_cut_to_it(tokenizer):
    data = SpamDataset([0, 1], ["a", "abcdefgh"], tokenizer, limit=16)
    data.width = 3
    batch = data.batch([0, 1])
    assert batch.inputs.shape == (2, 3)
    assert batch.lengths.tolist() == [1, 3]
    assert batch.inputs[1].tolist() == tokenizer.encode("abcdefgh")[:3]


def test_a_micro_batch_of_one_has_no_padding_without_a_width(tokenizer):
    data = SpamDataset([0, 1, 0], ["the lazy dogs jump", "x", "a fox"], tokenizer, limit=100)
    micros = list(data.batch([0, 1, 2]).split(1))
    assert [micro.inputs[0].tolist() for micro in micros] == data.ids
    data.width = 30
    assert [micro.inputs.shape[1] for micro in data.batch([0, 1, 2]).split(1)] == [30] * 3


def test_messages_are_cut_at_the_limit(tokenizer):
    data = SpamDataset([0], ["abcdefgh"], tokenizer, limit=4)
    assert (data.longest, data.batch([0]).inputs.shape) == (4, (1, 4))


def test_end_of_text_in_a_message_is_ordinary_text(tokenizer):
    data = SpamDataset([0], ["a<|endoftext|>b"], tokenizer, limit=64)
    assert tokenizer.eot not in data.ids[0]
    assert tokenizer.decode(data.ids[0]) == "a<|endoftext|>b"


def test_an_empty_row_becomes_one_pad_token():
    batch = pad_right([[], [5, 6]], pad=9, width=None, labels=[0, 1])
    assert (batch.inputs.tolist(), batch.lengths.tolist()) == ([[9, 9], [5, 6]], [1, 2])
    alone = pad_right([[]], pad=9, width=None, labels=[0])
    assert (alone.inputs.tolist(), alone.lengths.tolist(), alone.inputs.dtype) == ([[9]], [1], torch.long)


def test_messages_that_are_cut_are_counted(tokenizer):
    data = SpamDataset([0, 1, 0], ["a", "abcdefgh", "abcd"], tokenizer, limit=4)
    lengths = [len(tokenizer.encode(text)) for text in ("a", "abcdefgh", "abcd")]
    assert (data.tokens, data.cut) == (lengths, sum(length > 4 for length in lengths))
    data.width = 1
    assert data.cut == sum(length > 1 for length in lengths)
