"""The tokenizer, compared with Hugging Face's and with the book, and damaged files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFace

from llm.common.errors import DATA, UserError
from llm.common.files import read_json, write_json, write_text
from llm.data import tokenizer
from llm.data.special_tokens import END_OF_TEXT
from llm.data.tokenizer import FILES, Tokenizer, TokenizerConfig, adopt

# Without unassigned characters, since the implementations may use different versions of Unicode.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60)
PIECES = st.lists(
    st.sampled_from(["the", " ", "  ", "\n", "'ll", "'S", "12", "é", "e\u0301", "東京", "🙂", "\t", "...", "_"])
)


@pytest.fixture(scope="module")
def gpt2(mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's vocabulary, from the published files."""
    source, folder = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("gpt2")
    shutil.copyfile(mirror / "encoder.json", source / "vocab.json")
    shutil.copyfile(mirror / "vocab.bpe", source / "merges.txt")
    tokenizer.adopt(source, folder)
    return folder


# GPT-2's vocabulary


def test_gpt2_vocabulary_gives_the_ids_in_the_book(gpt2: Path) -> None:
    ours = Tokenizer.load(gpt2)
    before, after = "Hello, do you like tea? ", " In the sunlit terracesof someunknownPlace."
    first = [15496, 11, 466, 345, 588, 8887, 30, 220]
    second = [554, 262, 4252, 18250, 8812, 2114, 1659, 617, 34680, 27271, 13]
    assert (ours.encode(before), ours.eot, ours.encode(after)) == (first, 50256, second)
    assert ours.encode("Akwirw ier") == [33901, 86, 343, 86, 220, 959]


def test_the_verdict_has_5145_tokens(gpt2: Path, mirror: Path) -> None:
    assert len(Tokenizer.load(gpt2).encode((mirror / "the-verdict.txt").read_text())) == 5145


def test_gpt2_vocabulary_encodes_as_hugging_face(gpt2: Path, mirror: Path) -> None:
    text = (mirror / "the-verdict.txt").read_text() + (mirror / "instruction-data.json").read_text()
    theirs = HuggingFace.from_file(str(gpt2 / "tokenizer.json"))
    assert Tokenizer.load(gpt2).encode(text) == theirs.encode(text, add_special_tokens=False).ids


# A vocabulary trained on a corpus


@settings(deadline=None, max_examples=150)
@given(ANY_TEXT | PIECES.map("".join))
def test_trained_vocabulary_encodes_as_hugging_face(vocabulary: Path, text: str) -> None:
    theirs = HuggingFace.from_file(str(vocabulary / "tokenizer.json"))
    assert Tokenizer.load(vocabulary).encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_corpus_is_encoded_as_by_hugging_face(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "data/sample/corpus.txt").read_text(encoding="utf-8")[:200_000]
    tokenizer.train([text], 1000, tmp_path)
    theirs = HuggingFace.from_file(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(tmp_path).encode(text) == theirs.encode(text, add_special_tokens=False).ids


@settings(deadline=None, max_examples=150)
@given(ANY_TEXT)
def test_decoding_undoes_encoding(vocabulary: Path, text: str) -> None:
    ours = Tokenizer.load(vocabulary)
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("number", [0, 1, 3, 4, 1001])
def test_encode_all_encodes_each_text_in_order(vocabulary: Path, number: int) -> None:
    ours = Tokenizer.load(vocabulary)
    texts = [["", "🙂 two words", f"number {n}"][n % 3] for n in range(number)]
    assert ours.encode_all(texts) == [ours.encode(text) for text in texts]


def test_a_message_of_a_million_spaces_is_encoded(vocabulary: Path) -> None:
    ours, text = Tokenizer.load(vocabulary), "x" + " " * 1_000_000 + "a"
    assert [ours.decode(ids) for ids in ours.encode_all([text, "b"])] == [text, "b"]


def test_training_twice_writes_the_same_bytes(vocabulary: Path, tmp_path: Path) -> None:
    text = Tokenizer.load(vocabulary).decode(range(300)) * 3
    for name in ("a", "b"):
        tokenizer.train([text], 280, tmp_path / name)
    assert [(tmp_path / "a" / f).read_bytes() for f in FILES] == [(tmp_path / "b" / f).read_bytes() for f in FILES]


def test_adopting_a_folder_keeps_its_bytes(vocabulary: Path, tmp_path: Path) -> None:
    tokenizer.adopt(vocabulary, tmp_path)
    assert [(tmp_path / name).read_bytes() for name in FILES] == [(vocabulary / name).read_bytes() for name in FILES]


def test_merges_on_which_encoders_disagree_are_refused(vocabulary: Path, tmp_path: Path) -> None:
    """`t he` after `t h`: by ranks "the" is th+e, by pairs t+he. Tokens and ids are the same."""
    letters = {token: rank for token, rank in read_json(vocabulary / "vocab.json").items() if rank < 256}

    def folder(name: str, merges: list[str]) -> Path:
        words = [merge.replace(" ", "") for merge in merges]
        vocab = letters | {word: 256 + number for number, word in enumerate(words)}
        write_json(tmp_path / name / "vocab.json", vocab | {END_OF_TEXT: len(vocab)})
        write_text(tmp_path / name / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
        return tmp_path / name

    adopt(folder("valid", ["t h", "h e", "th e"]), tmp_path / "adopted")
    with pytest.raises(
        UserError, match=r"merges\.txt: merge 2 joins 't' and 'he', but the merges before it give \['th', 'e'"
    ):
        adopt(folder("invalid", ["t h", "h e", "t he"]), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_corpus_too_small_for_the_vocabulary_names_the_largest_size(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"tokenizer\.vocab_size: 400, but the corpus gives at most 259 tokens"
    ) as caught:
        tokenizer.train(["aa aa"], 400, tmp_path)
    assert caught.value.code == DATA
    tokenizer.train(["aa aa"], 259, tmp_path)
    assert Tokenizer.load(tmp_path).vocab_size == 259


def test_vocabulary_without_room_for_the_special_token_is_a_problem() -> None:
    assert [name for name, *_ in TokenizerConfig("x", 256).problems()] == ["vocab_size"]
    assert not list(TokenizerConfig("x", 257).problems())


# The special token


def test_end_of_text_is_the_last_id(vocabulary: Path) -> None:
    ours = Tokenizer.load(vocabulary)
    assert (ours.eot, ours.vocab_size) == (299, 300)
    assert json.loads((vocabulary / "vocab.json").read_text())[END_OF_TEXT] == 299
    assert HuggingFace.from_file(str(vocabulary / "tokenizer.json")).token_to_id(END_OF_TEXT) == 299


def test_special_token_in_text_is_ordinary_text(vocabulary: Path) -> None:
    ours = Tokenizer.load(vocabulary)
    ids = ours.encode(f"a{END_OF_TEXT}b")
    assert ours.eot not in ids
    assert ours.decode(ids) == f"a{END_OF_TEXT}b"
    assert ours.decode([ours.eot]) == END_OF_TEXT
    assert ours.eot in ours._encoding.encode(f"a{END_OF_TEXT}b", allowed_special="all")  # the control


def test_lone_surrogate_is_encoded_as_the_replacement_character(vocabulary: Path) -> None:
    ours = Tokenizer.load(vocabulary)
    text = "a\ud800b \ud83d\ude00"
    assert ours.decode(ours.encode(text)) == ours.decode(ours.encode_joined([text])) == "a\ufffdb 😀"


def test_a_copy_encodes_as_the_tokenizer_and_shares_no_encoder(vocabulary: Path) -> None:
    ours = Tokenizer.load(vocabulary)
    other = ours.copy()
    assert other.encode("two foxes") == ours.encode("two foxes")
    assert (other.ends, other.bos, other.special) == (ours.ends, ours.bos, ours.special)
    assert other._encoding is not ours._encoding


# Damaged files


def renumber(vocab: dict[str, Any], token: str, rank: Any) -> dict[str, Any]:
    return vocab | {token: rank}


DAMAGE: dict[str, Callable[[dict[str, Any], list[str]], tuple[Any, list[str]]]] = {
    "a list instead of an object": lambda vocab, merges: (list(vocab), merges),
    "an id that is text": lambda vocab, merges: (renumber(vocab, "a", "64"), merges),
    "an id that is true": lambda vocab, merges: (renumber(vocab, "a", True), merges),
    "two tokens with one id": lambda vocab, merges: (renumber(vocab, "a", vocab["b"]), merges),
    "a gap in the ids": lambda vocab, merges: (renumber(vocab, END_OF_TEXT, 400), merges),
    "special token first": lambda vocab, merges: ({t: (i + 1) % len(vocab) for t, i in vocab.items()}, merges),
    "a byte missing": lambda vocab, merges: ({t: i for t, i in vocab.items() if t != "Ġ"}, merges),
    "only some bytes": lambda vocab, merges: ({"a": 0, "b": 1}, []),
    "a token that is not a byte": lambda vocab, merges: (renumber(vocab, "\n", vocab[END_OF_TEXT] + 1), merges),
    "a merge missing": lambda vocab, merges: (vocab, merges[:-1]),
    "merges in another order": lambda vocab, merges: (vocab, [merges[1], merges[0], *merges[2:]]),
    "a merge of three parts": lambda vocab, merges: (vocab, [*merges[:-1], " ".join(merges[-1].replace(" ", ""))]),
    "a merge of an unknown token": lambda vocab, merges: (vocab, [merges[0].replace(" ", "") + " ", *merges[1:]]),
}


def damaged(source: Path, folder: Path, damage: Callable[[Any, list[str]], tuple[Any, list[str]]]) -> Path:
    vocab = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    header, *merges = (source / "merges.txt").read_text(encoding="utf-8").splitlines()
    vocab, merges = damage(vocab, merges)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join([header, *merges]) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_vocabulary_is_refused(vocabulary: Path, tmp_path: Path, damage: Any) -> None:
    with pytest.raises(UserError, match=r"vocab\.json: ") as caught:
        Tokenizer.load(damaged(vocabulary, tmp_path, damage))
    assert caught.value.code == DATA


def test_the_id_of_an_end_of_text_that_is_not_the_last_one_is_named(vocabulary: Path, tmp_path: Path) -> None:
    copy = damaged(vocabulary, tmp_path, DAMAGE["special token first"])
    with pytest.raises(UserError, match=r"has the id 0, not 299, the last one \| fix: use its tokenizer.json"):
        Tokenizer.load(copy)


def test_undamaged_copy_is_accepted(vocabulary: Path, tmp_path: Path) -> None:
    copy = damaged(vocabulary, tmp_path, lambda vocab, merges: (vocab, merges))
    assert Tokenizer.load(copy).encode("the fox") == Tokenizer.load(vocabulary).encode("the fox")


def test_a_missing_end_of_text_is_added_at_the_end(vocabulary: Path, tmp_path: Path) -> None:
    copy = damaged(vocabulary, tmp_path, lambda vocab, merges: ({t: i for t, i in vocab.items() if i < 299}, merges))
    assert Tokenizer.load(copy).eot == 299


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_missing_file_is_named(vocabulary: Path, tmp_path: Path, name: str) -> None:
    tokenizer.copy(vocabulary, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name}: no such file"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("tokenizer.model", "use a model with a byte-level BPE"),
        ("spiece.model", "use a model with a byte-level BPE"),
        ("sentencepiece.bpe.model", "use a model with a byte-level BPE"),
        ("tekken.json", "use a model with a byte-level BPE"),
        ("vocab.txt", "use a model with a byte-level BPE"),
        ("encoder.json", "rename encoder.json to vocab.json, and vocab.bpe to merges.txt"),
        ("vocab.bpe", "rename encoder.json to vocab.json, and vocab.bpe to merges.txt"),
    ],
)
def test_a_tokenizer_of_another_kind_is_named(tmp_path: Path, name: str, fix: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name}: this kind of tokenizer is not supported .*{fix}"):
        Tokenizer.load(tmp_path)


def test_the_tokenizer_of_a_gguf_file_comes_from_its_import(tmp_path: Path) -> None:
    (tmp_path / "own.gguf").touch()
    for path in (tmp_path, tmp_path / "own.gguf"):
        with pytest.raises(UserError, match=r"own.gguf: only import_gpt2 reads a GGUF file .*name models/ITEM"):
            Tokenizer.load(path)


def test_beside_a_gguf_file_a_tokenizer_of_another_kind_is_named(tmp_path: Path) -> None:
    """As in a folder with the weights in two formats, which import_gpt2 reads."""
    for name in ("own.gguf", "tokenizer.model"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"tokenizer.model: this kind of tokenizer is not supported"):
        Tokenizer.load(tmp_path)


def test_openais_names_of_a_pair_can_be_changed(mirror: Path, tmp_path: Path) -> None:
    for name, ours in (("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")):
        (tmp_path / ours).symlink_to(mirror / name)
    assert Tokenizer.load(tmp_path).eot == 50256


def test_fingerprint_differs_between_vocabularies(vocabulary: Path, tmp_path: Path) -> None:
    tokenizer.train(["one two three two one"], 260, tmp_path / "other")
    tokenizer.copy(vocabulary, tmp_path)
    assert tokenizer.fingerprint(tmp_path) == tokenizer.fingerprint(vocabulary)
    assert tokenizer.fingerprint(tmp_path / "other") != tokenizer.fingerprint(vocabulary)
