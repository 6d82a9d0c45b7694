"""Cuts of a text at which the ids of the parts are those of the whole."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace

from llm.data import pieces, tokenizer
from llm.data.special_tokens import END_OF_TEXT
from llm.data.tokenizer import Tokenizer

ANY_TEXT = st.text(st.characters(exclude_categories=["Cn"]), max_size=80)
WORDS = [
    "the",
    "a1b2",
    "'ll",
    "'S",
    "'",
    "s",
    "12",
    "é",
    "e\u0301",
    "東京。",
    "🙂",
    "...",
    "_",
    "x" * 30,
    END_OF_TEXT,
    "ﬁ",
]
SPACES = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2028", "\x1c", "\x85", "\u3000", " \n "]
TEXT = ANY_TEXT | st.lists(st.sampled_from([*WORDS, *SPACES, *SPACES]), max_size=60).map("".join)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """GPT-2's vocabulary where there is a mirror, else one trained on words and runs of spaces."""
    folder = tmp_path_factory.mktemp("vocabulary")
    if mirror := os.environ.get("LLM_MIRROR"):
        shutil.copyfile(Path(mirror, "encoder.json"), folder / "vocab.json")
        shutil.copyfile(Path(mirror, "vocab.bpe"), folder / "merges.txt")
    else:
        chance = random.Random(1)
        tokenizer.train(["".join(chance.choices([*WORDS, *SPACES], k=20_000))], 400, folder)
    return Tokenizer.load(folder)


@settings(deadline=None, max_examples=500)
@given(TEXT, st.integers(1, 40))
def test_the_ids_of_the_pieces_are_those_of_the_whole(ours: Tokenizer, text: str, size: int) -> None:
    parts = list(pieces.pieces(text, size))
    assert "".join(parts) == text
    assert [i for part in parts for i in ours.encode(part)] == ours.encode(text)


@settings(deadline=None, max_examples=500)
@given(TEXT, st.integers(0, 100))
def test_the_last_cut_changes_no_id(ours: Tokenizer, text: str, end: int) -> None:
    cut = pieces.last_cut(text, end)
    assert 0 <= cut <= min(end, len(text))
    assert ours.encode(text[:cut]) + ours.encode(text[cut:]) == ours.encode(text)


def test_every_kind_of_text_has_places_to_cut() -> None:
    texts = ["word " * 100, "line\n" * 100, "a1" * 200, "東京、" * 100, "one,two;" * 50, "a\tb\t" * 100]
    for text in texts:
        parts = list(pieces.pieces(text, 50))
        assert max(map(len, parts)) <= 50, text[:10]
        assert len(parts) >= len(text) // 50
    assert list(pieces.pieces("x" * 500, 50)) == ["x" * 500]  # one word
    assert list(pieces.pieces("x" * 500 + " y", 50)) == ["x" * 500, " y"]


def test_a_cut_inside_a_word_would_be_seen(ours: Tokenizer) -> None:
    assert ours.encode("the the"[:3]) + ours.encode("the the"[3:]) == ours.encode("the the")
    assert ours.encode("the the"[:4]) + ours.encode("the the"[4:]) != ours.encode("the the")


def test_no_cut_divides_a_contraction() -> None:
    """The pattern of GPT-4o takes `don't` for one word."""
    text = "don't" * 40
    assert {text[: pieces.last_cut(text, end)][-1:] for end in range(len(text))} == {""}


# White space on which tiktoken fails


@settings(deadline=None, max_examples=500)
@given(TEXT)
def test_long_white_space_is_encoded_as_if_there_were_no_limit(ours: Tokenizer, text: str) -> None:
    whole = ours._encoding.encode_ordinary(text)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pieces, "RUN", 2)
        parts = pieces.without_long_spaces(text)
    assert "".join(parts) == text
    assert [i for part in parts for i in ours._encoding.encode_ordinary(part)] == whole


@pytest.mark.parametrize("space", [" ", "\u3000"], ids=ascii)
def test_a_million_spaces_are_encoded(ours: Tokenizer, space: str) -> None:
    text = "start" + space * (1_000_001 // len(space)) + "a" + space * 3 + "b" + space * 600_000
    with pytest.raises(BaseException, match=r"unwrap|PanicException"):
        ours._encoding.encode_ordinary(text)
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    assert ours.encode_joined(["x", text]).tolist() == [*ours.encode("x"), ours.eot, *ids]
    short = ours._encoding.encode_ordinary(text[: 5 + 2000] + text[-2000 - 4 :])  # an even number of repetitions
    assert (ids[0], ids[-1]) == (short[0], short[-1])


def test_a_million_spaces_are_encoded_as_by_hugging_face(vocabulary: Path) -> None:
    theirs = HuggingFace.from_file(str(vocabulary / "tokenizer.json"))
    text = "b" + "\n" * 500_000 + " " * 500_002 + "\tthe"
    assert Tokenizer.load(vocabulary).encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_ordinary_text_is_looked_at_a_few_times_only() -> None:
    text = "the quick brown fox " * 500_000  # 10 MB
    began = time.thread_time()
    assert pieces.without_long_spaces(text) == [text]
    assert time.thread_time() - began < 0.05  # encoding takes seconds


@settings(deadline=None, max_examples=300)
@given(TEXT, st.integers(1, 9))
def test_only_long_words_are_cut_for_training(text: str, size: int) -> None:
    parts = list(pieces.without_long_words(text, size))
    assert "".join(parts) == text
    for part, after in itertools.pairwise(parts):
        assert len(part) >= size
        assert pieces.SAME_KIND.fullmatch(part[-size:])
        assert not after or pieces.SAME_KIND.match(after[0])


@pytest.mark.parametrize("word", [" ", "\n", "x", "7", "-", "東"])
def test_no_long_word_is_left_for_training(word: str) -> None:
    text = "one two " * 100 + word * 10_007 + " three" * 500
    parts = list(pieces.without_long_words(text, 100))
    assert max(len(run) for part in parts for run in re.findall(f"{word}+", part)) < 200
    assert len(parts) > 90
    assert list(pieces.without_long_words("one two " * 1000, 100)) == ["one two " * 1000]


# Several texts at once


@settings(deadline=None, max_examples=300)
@given(st.lists(TEXT, min_size=1, max_size=6))
def test_joined_texts_are_encoded_one_by_one(ours: Tokenizer, texts: list[str]) -> None:
    expected = [i for text in texts for i in (*ours.encode(text), ours.eot)][:-1]
    assert ours.encode_joined(texts).tolist() == expected


def test_the_mark_between_texts_is_not_taken_from_the_text(ours: Tokenizer) -> None:
    texts = [END_OF_TEXT, "<|endof", "text|>", "<", ""]
    ids = ours.encode_joined(texts).tolist()
    assert ids.count(ours.eot) == 4
    assert ours.decode(ids) == END_OF_TEXT.join(texts)


def test_lone_surrogates_are_encoded_as_by_encode(ours: Tokenizer) -> None:
    assert ours.encode_joined(["a\ud800b"]).tolist() == ours.encode("a\ud800b") == ours.encode("a\ufffdb")


def test_byte_sizes_are_those_of_the_text(ours: Tokenizer) -> None:
    sizes, text = ours.byte_sizes(), "naïve 東京 🙂\n"
    assert len(sizes) == ours.vocab_size
    assert int(sizes[ours.encode_joined([text, "b"])].sum()) == len(text.encode()) + 1
