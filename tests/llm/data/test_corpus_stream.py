"""Documents in parts, their ids in order, memory that does not grow, and the split."""

from __future__ import annotations

import hashlib
import itertools
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.common.errors import DATA, UserError
from llm.data import corpus, corpus_files, corpus_stream
from llm.data.corpus import CorpusConfig, Pins, write_shards
from llm.data.corpus_files import CorpusFiles, DocumentsConfig
from llm.data.corpus_split import Split, encode_corpus
from llm.data.corpus_stream import Encoder, Part, split_parts, text_bytes
from llm.data.encode_blocks import ParallelConfig
from llm.data.tokenizer import Tokenizer
from tests.conftest import TEXT

HERE = ParallelConfig(engine="local", workers=2)
PLAIN = DocumentsConfig(files=None, format=None, text_field=None, encoding="utf-8")
PIECES = ["the fox", "a", " ", "\n", "\n\n", "\n \t\n", "\n\n\n", "\t", "12,", "é", "\x0c", "\u3000", "---", "--", "-"]


def whole(parts: Iterator[Part]) -> list[str]:
    found = [""]
    for part in parts:
        found[-1] += part.text
        if part.ends:
            found.append("")
    assert found.pop() == ""
    return found


def chunks(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def split_corpus(
    folder: Path, vocabulary: Path, *documents: str, separator: str | None = "\n\n", **changes: Any
) -> Split:
    """Split a corpus of one text file."""
    (folder / "text").mkdir()
    (folder / "text/a.txt").write_text((separator or "").join(documents), encoding="utf-8")
    config = CorpusConfig(
        **{"train_fraction": 0.9, "split_by": "tokens", "separator": separator, "shard_tokens": 10**6, **changes}
    )
    return encode_corpus(
        CorpusFiles(folder / "text", PLAIN), config, Tokenizer.load(vocabulary), folder / "unsplit", HERE
    )


# Documents


@settings(deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.integers(1, 9), st.integers(1, 30))
@pytest.mark.parametrize("separator", ["\n\n", "\n\n\n", "---", "\n", None])
def test_documents_do_not_depend_on_how_the_text_arrives(
    separator: str | None, text: str, chunk: int, size: int
) -> None:
    pattern = {"\n\n": r"\n[^\S\n]*\n", "\n\n\n": r"\n[^\S\n]*\n[^\S\n]*\n", None: r"(?!)"}.get(separator, separator)
    expected = [document for document in re.split(pattern or "", text) if document.strip()]
    assert whole(split_parts(iter(chunks(text, chunk)), separator, size, "a.txt")) == expected


def test_parts_are_about_as_long_as_asked() -> None:
    parts = list(split_parts(iter(chunks("word " * 1000 + "\n\nend", 64)), "\n\n", 100, "a.txt"))
    assert max(len(part.text) for part in parts) <= 100
    assert [part.ends for part in parts].count(True) == 2


@pytest.mark.parametrize("blank", [" ", "\t ", "\u00a0", "\u3000\u3000", "\x0c"])
def test_lines_of_white_space_separate_documents(blank: str) -> None:
    text = f"one\n{blank}\ntwo\n{blank} \nthree\n\n\nfour\n  five"
    assert whole(split_parts(iter([text]), "\n\n", 100, "a.txt")) == ["one", "two", "three", "\nfour\n  five"]


def test_a_word_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_stream, "LONGEST_WORD", 1000)
    with pytest.raises(
        UserError, match="2,000 characters in a row without a place between two words, from 'xxx"
    ) as caught:
        list(split_parts(iter(["x" * 1000, "x" * 1000]), "\n\n", 100, "a.txt"))
    assert (caught.value.where, caught.value.code) == ("a.txt", DATA)
    assert whole(split_parts(iter(["x" * 900, " y"]), "\n\n", 100, "a.txt")) == ["x" * 900 + " y"]


# Ids


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.sampled_from(["the fox", "a b c", "naïve 東京 " * 4, "<|endoftext|>", " \n x"]), min_size=1, max_size=12
    ),
    st.integers(1, 12),
)
def test_ids_are_those_of_whole_documents_with_a_mark_between(
    vocabulary: Path, tmp_path_factory: pytest.TempPathFactory, documents: list[str], size: int
) -> None:
    ours, folder = Tokenizer.load(vocabulary), tmp_path_factory.mktemp("ids")
    parts = split_parts(iter(["\n---\n".join(documents)]), "\n---\n", size, "a.txt")
    encoder = Encoder(ours, folder / "ids", np.uint16, HERE)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(corpus_stream, "PART", size)
        encoder.write(parts)
    expected = [id_ for document in documents for id_ in (*ours.encode(document), ours.eot)]
    assert encoder.ids()[:].tolist() == expected
    assert np.fromfile(encoder.ends, np.int64).tolist() == [i for i, id_ in enumerate(expected) if id_ == ours.eot]
    assert text_bytes(encoder.ids(), ours.byte_sizes()) == len("".join(documents).encode())


# SHA-256 of the shards that the code before streaming wrote for these documents, this vocabulary and this split
PINNED = {
    "train-00000.bin": "2a5cab26e4b6dc9646d20315048123095516b1f99ddee78c6644eeb5a2f40875",
    "train-00001.bin": "df20d1328ea1fcbed70d9805a22a2a437fdbe207f67c928ef311d597b8695534",
    "val-00000.bin": "9aadc185db3d79efb9a97396578095c7657ae18a0fc06cc17f4220f9a236a56b",
}


def test_shards_have_the_bytes_that_they_always_had(tmp_path: Path, vocabulary: Path) -> None:
    documents = [f"{number}: {TEXT[number % 50 : number % 50 + 200]}" for number in range(100)]
    found = split_corpus(tmp_path, vocabulary, *documents, train_fraction=0.8)
    ours = Tokenizer.load(vocabulary)
    for split, ids in (("train", found.train), ("val", found.val)):
        write_shards(tmp_path, split, ids, text_bytes(ids, ours.byte_sizes()), Pins(300, "t"), 5000)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.glob("*.bin")} == PINNED


@pytest.mark.parametrize("separator", ["\n\n", None], ids=["documents", "one document"])
def test_memory_does_not_grow_with_the_corpus(
    tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch, separator: str | None
) -> None:
    for module, name in ((corpus_stream, "PART"), (corpus_files, "CHUNK"), (corpus, "BLOCK")):
        monkeypatch.setattr(module, name, 1 << 12)
    monkeypatch.setattr(corpus_stream.read_parts, "__defaults__", (1 << 12,))
    ours, peaks = Tokenizer.load(vocabulary), []
    for copies in (100, 2000):  # 0.1 and 2 MB
        folder = tmp_path / str(copies)
        folder.mkdir()
        (folder / "a.txt").write_text((TEXT * 3 + "\n\n") * copies)
        tracemalloc.start()
        config = CorpusConfig(0.9, "tokens", separator, 10**6)
        found = encode_corpus(CorpusFiles(folder, PLAIN), config, ours, tmp_path / f"unsplit {copies}", HERE)
        write_shards(folder, "train", found.train, 0, Pins(300, "t"), 10**6)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] < 1_500_000


# The split


def test_by_tokens_the_cut_is_at_the_nearest_end_of_a_document(tmp_path: Path, vocabulary: Path) -> None:
    found, ours = (
        split_corpus(tmp_path, vocabulary, *["12 dogs"] * 17, "12", "the lazy dogs"),
        Tokenizer.load(vocabulary),
    )
    assert ours.decode(found.train[:]) == "<|endoftext|>".join(["12 dogs"] * 17)
    assert ours.decode(found.val[:]) == "12<|endoftext|>the lazy dogs"
    assert found.tokens == len(found.train) + 1 + len(found.val)
    assert (found.documents, found.characters) == (19, 17 * 7 + 2 + 13)


@pytest.mark.parametrize("swap", [False, True])
def test_two_documents_of_different_size_are_split_by_tokens(tmp_path: Path, vocabulary: Path, swap: bool) -> None:
    documents = ["short first", "The quick brown fox jumps. " * 500]
    found = split_corpus(tmp_path, vocabulary, *(reversed(documents) if swap else documents))
    assert found.tokens == len(found.train) + len(found.val)  # cut inside a document
    assert len(found.train) == round(0.9 * found.tokens)
    text = Tokenizer.load(vocabulary).decode(itertools.chain(found.train[:], found.val[:]))
    assert sorted(text.split("<|endoftext|>")) == sorted(documents)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("sizes", [[50] * 3, [400, 1, 1], [1, 400], [3] * 80, [500]])
def test_the_smaller_split_is_never_far_from_its_share(
    tmp_path: Path, vocabulary: Path, fraction: float, sizes: list[int]
) -> None:
    found = split_corpus(tmp_path, vocabulary, *("the fox " * size for size in sizes), train_fraction=fraction)
    smaller, wanted = min(len(found.train), len(found.val)), min(fraction, 1 - fraction) * found.tokens
    assert 0.5 * wanted - 1 <= smaller <= 1.5 * wanted + 1


@pytest.mark.parametrize("fraction", [0.3, 0.9])
@pytest.mark.parametrize("size", [3, 10, 1 << 20])
def test_by_characters_the_cut_is_at_the_very_character(
    tmp_path: Path, vocabulary: Path, monkeypatch: pytest.MonkeyPatch, size: int, fraction: float
) -> None:
    monkeypatch.setattr(corpus_stream.read_parts, "__defaults__", (size,))
    text, ours = "naïve quick foxes, " * 7, Tokenizer.load(vocabulary)
    found = split_corpus(tmp_path, vocabulary, text, separator=None, split_by="characters", train_fraction=fraction)
    cut = int(fraction * len(text))
    assert found.train[:].tolist() == ours.encode(text[:cut])
    assert found.val[:].tolist() == ours.encode(text[cut:])
    assert (found.tokens, found.characters, found.documents) == (len(ours.encode(text)), len(text), 1)


@pytest.mark.parametrize("at", range(1, 9))
def test_by_characters_several_documents_are_cut_where_the_fraction_is(
    tmp_path: Path, vocabulary: Path, at: int
) -> None:
    documents, ours = ["aaa b", "cc", "dd"], Tokenizer.load(vocabulary)
    cut = at / 9 + 1e-9
    config = {"split_by": "characters", "train_fraction": cut}
    if at in (1, 8):
        with pytest.raises(UserError, match="too little text for two splits"):
            split_corpus(tmp_path, vocabulary, *documents, **config)
        return
    found = split_corpus(tmp_path, vocabulary, *documents, **config)
    texts = [ours.decode(ids[:]).replace("<|endoftext|>", "|") for ids in (found.train, found.val)]
    expected = "aaa b|cc|dd"
    place = at + (at > 5) + (at > 7)
    assert texts == (
        [expected[:place], expected[place + 1 :]] if at in (5, 7) else [expected[:place], expected[place:]]
    )
    assert found.tokens == len(ours.encode_joined(documents))


@pytest.mark.parametrize("split_by", ["tokens", "characters"])
@pytest.mark.parametrize("text", ["a", "ab", "abc"])
def test_too_little_text_is_refused(tmp_path: Path, vocabulary: Path, text: str, split_by: str) -> None:
    with pytest.raises(
        UserError, match=r"too little text for two splits: \d for training, \d for validation"
    ) as caught:
        split_corpus(tmp_path, vocabulary, text, split_by=split_by)
    assert caught.value.code == DATA
