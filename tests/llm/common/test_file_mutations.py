"""A thousand broken copies of every other data file: each is refused with a message, or read as by an independent
parser.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import random
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llm.book.measures.sources import SPAM
from llm.common.files import write_json
from llm.data import tokenizer_files
from llm.data.corpus import Pins, write_shards
from llm.data.corpus_dataset import TokenWindows
from llm.data.corpus_files import CorpusFiles, DocumentsConfig
from llm.data.corpus_stream import Encoder, read_parts
from llm.data.encode_blocks import ParallelConfig
from llm.data.spam import read_messages
from llm.data.tokenizer import Tokenizer, train
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.weights import families
from llm.weights.classifier_folder import load_classifier, save_classifier
from llm.weights.model_folder import load_model
from llm.weights.tensors import write_tensors
from tests.mutations import answer, answers, mutate_bytes, mutate_json, once

SAMPLE = Path(__file__).parents[3] / "data/sample"
TEXT = "Every effort moves you; the quick brown fox doesn't jump over 12 lazy dogs, naïve café 東京 🙂!"


def check(given: list[str], accepted: int, refused: int) -> None:
    assert set(given) <= {"accepted", "refused"}, {text for text in given if text not in ("accepted", "refused")}
    assert given.count("accepted") > accepted
    assert given.count("refused") > refused


# Labelled messages

TSV_PIECES = [b"\t", b"\n", b"\r", b"\r\n", b'"', b"\xff", b"\x00", b"ham", b"spam", b" ", "\u2028".encode(), b"NA"]


def mutate_tsv(raw: bytes, chance: random.Random) -> bytes:
    return mutate_bytes(raw, chance, TSV_PIECES)


def without_empty_lines(raw: bytes) -> str:
    text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    return re.sub(r"(?m)^ *(\n|\Z)", "", text).rstrip("\n")


def lines(raw: bytes) -> list[tuple[str, str]]:
    """Return the messages, parsed with a regular expression."""
    text = without_empty_lines(raw)
    line = r"[^\S\t\n]*(ham|spam)[^\S\t\n]*\t([^\S\t\n]*\S[^\t\n]*)\t*"
    if not re.fullmatch(rf"{line}(\n{line})*", text):
        raise ValueError("not lines of label, tab, message")
    rows = re.findall(rf"(?:\A|\n){line}", text)
    if {label for label, _ in rows} != {"ham", "spam"}:
        raise ValueError("a class is missing")
    return rows


def quoted(raw: bytes) -> list[tuple[str, str]]:
    """Return the messages, parsed by the csv module with quotes."""
    text = without_empty_lines(raw)
    if any(line.count("\t") != 1 for line in text.split("\n")):
        raise ValueError("not lines with one tab")
    rows = [(row[0].strip(), *row[1:]) for row in csv.reader(io.StringIO(text, newline=""), delimiter="\t") if row]
    if any(len(row) != 2 or row[0] not in ("ham", "spam") or not row[1].strip() for row in rows):
        raise ValueError("not rows of label and message")
    if {label for label, _ in rows} != {"ham", "spam"}:
        raise ValueError("a class is missing")
    return rows


def messages(path: Path, reading: Any) -> list[tuple[str, str]]:
    frame = read_messages(path, replace(SPAM, reading=reading)).frame
    return list(zip(frame["Label"], frame["Text"], strict=True))


@pytest.fixture
def tsv() -> bytes:
    return (
        b"".join((SAMPLE / "spam.tsv").read_bytes().splitlines(keepends=True)[:20]) + b'spam\t"win" 2 "now\nham\t"ok"\n'
    )


@pytest.mark.parametrize(("reading", "meaning"), [("strict", lines), ("book", quoted)])
def test_no_mutation_of_messages_is_misread(reading, meaning, tsv, tmp_path):
    given = answers(lambda path: messages(path, reading), tmp_path / "spam.tsv", tsv, meaning, mutate_tsv)
    check(given, accepted=200, refused=200)


def test_the_check_detects_messages_read_wrongly(tsv, tmp_path):
    def lax(path: Path) -> list[tuple[str, str]]:
        rows = [line.split("\t") for line in path.read_text(errors="replace").splitlines()]
        return [(row[0], row[-1]) for row in rows]

    given = {answer(lax, tmp_path / "spam.tsv", mutate_tsv(tsv, random.Random(seed)), lines) for seed in range(100)}
    assert any("not lines of label" in text for text in given)
    assert any("read as" in text for text in given)


# The text corpus

CORPUS_PIECES = [b"\n\n", b"\n", b"\r\n", b"\xff", b"\xef\xbb\xbf", b"<|endoftext|>", b"\x00", "\u2029".encode()]


def mutate_corpus(raw: bytes, chance: random.Random) -> bytes:
    return mutate_bytes(raw, chance, CORPUS_PIECES)


def documents(raw: bytes) -> bytes:
    """Return the documents between empty lines, joined by the byte 0xff."""
    text = raw.decode("utf-8-sig").replace("\r\n", "\n")
    found = [part for part in re.split("\n[ \t]*\n", text) if re.search(r"\S", part)]
    if not found:
        raise ValueError("no text")
    return b"\xff".join(part.encode() for part in found)


@pytest.mark.slow
def test_no_mutation_of_the_corpus_is_misread(vocabulary, tmp_path):
    tokenizer, folder = Tokenizer.load(vocabulary), tmp_path / "corpus"
    folder.mkdir()
    piece = [tokenizer._encoding.decode_single_token_bytes(i) for i in range(tokenizer.eot)] + [b"\xff"]

    def read(path: Path) -> bytes:
        files = CorpusFiles(path.parent, DocumentsConfig(None, None, None, "utf-8"))
        shutil.rmtree(tmp_path / "ids", ignore_errors=True)
        (tmp_path / "ids").mkdir()
        encoder = Encoder(tokenizer, tmp_path / "ids/ids", np.uint16, ParallelConfig("local", 2))
        encoder.write(read_parts(files, "\n\n"))
        return b"".join(piece[i] for i in encoder.ids()[: encoder.count - 1])

    raw = (SAMPLE / "corpus.txt").read_bytes()[:2000] + "\n\nnaïve 東京 🙂\n".encode()
    check(answers(read, folder / "corpus.txt", raw, documents, mutate_corpus), accepted=500, refused=30)


def test_the_check_detects_a_corpus_read_wrongly(tmp_path):
    path = tmp_path / "corpus.txt"
    assert "read as" in answer(lambda path: path.read_bytes(), path, b"a\r\nb\n\nc", documents)
    assert "no text" in answer(lambda path: path.read_bytes(), path, b"\n\n \n", documents)
    assert "UnicodeDecodeError" in answer(lambda path: path.read_text(errors="replace"), path, b"a\xff", documents)


# The tokenizer's files

MERGE_PIECES = [b"\n", b" ", b"\r\n", b"#version", b"\xff", "Ġ".encode(), b"e", b"t", b"th e\n"]


def byte_pairs(vocab_raw: bytes, merges_raw: bytes) -> tuple[dict[str, int], list[list[int]]]:
    """Return the vocabulary, and the ids of some words, merged pair by pair in the order of merges.txt."""
    vocab = json.loads(vocab_raw.decode("utf-8-sig"), object_pairs_hook=once)
    end = vocab.pop("<|endoftext|>", len(vocab))
    rows = merges_raw.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    merges = [tuple(row.split(" ")) for row in rows if row and not row.startswith("#version")]
    order = {pair: number for number, pair in enumerate(merges)}
    letters = sorted(vocab, key=lambda token: vocab[token])[:256]
    if [vocab[token] for token in [*letters, *map("".join, merges)]] != list(range(end)) or len(vocab) != end:
        raise ValueError("vocabulary and merges do not fit")
    words = ["".join(pair) for pair in merges] + [word.replace(" ", "Ġ") for word in re.findall(r" ?[A-Za-z]+", TEXT)]
    return vocab, [[vocab[part] for part in merged(word, order)] for word in words]


def merged(word: str, order: dict[tuple[str, ...], int]) -> list[str]:
    parts = list(word)
    while pairs := [pair for pair in itertools.pairwise(parts) if pair in order]:
        first = min(pairs, key=lambda pair: order[pair])
        at = next(i for i in range(len(parts)) if tuple(parts[i : i + 2]) == first)
        parts[at : at + 2] = ["".join(first)]
    return parts


PARTS = ("vocab.json", "merges.txt")


@pytest.fixture
def raw_tokenizer(vocabulary, tmp_path) -> dict[str, bytes]:
    """The bytes of both files of a tokenizer; the files are also in `tmp_path`."""
    raw = {name: (vocabulary / name).read_bytes() for name in PARTS}
    for name, data in raw.items():
        (tmp_path / name).write_bytes(data)
    return raw


def meaning_with(raw: dict[str, bytes], name: str) -> Callable[[bytes], Any]:
    """Return a function of the bytes of file `name` that parses them together with the other file."""
    return lambda changed: byte_pairs(
        **{f"{Path(file).stem}_raw": raw[file] for file in raw} | {f"{Path(name).stem}_raw": changed}
    )


def tokenizer_read(path: Path) -> Any:
    tokenizer = Tokenizer.load(path.parent)
    letter = {bytes([i]): chr(i) if 33 <= i <= 126 or (161 <= i <= 255 and i != 173) else "" for i in range(256)}
    free = iter(range(256, 400))
    letter = {byte: char or chr(next(free)) for byte, char in letter.items()}
    tokens_of = [tokenizer._encoding.decode_single_token_bytes(i) for i in range(tokenizer.eot)]
    vocab = {"".join(letter[bytes([b])] for b in token): i for i, token in enumerate(tokens_of)}
    words = [*tokens_of[256:], *(word.encode() for word in re.findall(r" ?[A-Za-z]+", TEXT))]
    return vocab, [tokenizer._encoding._encode_single_piece(word) for word in words]


def mutate_merges(data: bytes, chance: random.Random) -> bytes:
    rows, kind = data.decode().split("\n"), chance.randrange(5)
    at = chance.randrange(1, len(rows) - 1)
    if kind == 0:  # the same token from other parts
        whole = rows[at].replace(" ", "")
        cut = chance.randrange(1, len(whole))
        rows[at] = f"{whole[:cut]} {whole[cut:]}"
    elif kind == 1:
        other = chance.randrange(1, len(rows) - 1)
        rows[at], rows[other] = rows[other], rows[at]
    elif kind == 2:  # no effect
        rows.insert(at, chance.choice(["", "#version: 9"]))
    else:
        return mutate_bytes(data, chance, MERGE_PIECES)
    return "\n".join(rows).encode()


def part_of(raw: dict[str, bytes], name: str, folder: Path) -> tuple[Path, bytes, Callable[[bytes], Any]]:
    """Return the path of a file of the tokenizer, its bytes and its reference parser."""
    return folder / name, raw[name], meaning_with(raw, name)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mutate"), zip(PARTS, (mutate_json, mutate_merges), strict=True))
def test_no_mutation_of_a_tokenizer_is_misread(name, mutate, raw_tokenizer, tmp_path):
    path, raw, meaning = part_of(raw_tokenizer, name, tmp_path)
    check(answers(tokenizer_read, path, raw, meaning, mutate), accepted=20, refused=500)


def test_the_check_detects_a_vocabulary_read_wrongly(raw_tokenizer, tmp_path):
    path, raw, meaning = part_of(raw_tokenizer, "vocab.json", tmp_path)
    good = tokenizer_read(path)
    vocab = json.loads(raw)
    swapped = json.dumps(vocab | {"a": vocab["b"], "b": vocab["a"]}).encode()
    assert answer(tokenizer_read, path, swapped, meaning) == "accepted"  # another valid vocabulary
    assert "read as" in answer(lambda _: good, path, swapped, meaning)
    assert "duplicate key" in answer(lambda _: good, path, raw.replace(b"{", b'{"a": 0, ', 1), meaning)
    assert "do not fit" in answer(lambda _: good, path, json.dumps(vocab | {"a": vocab["b"]}).encode(), meaning)


def test_the_check_detects_merges_read_wrongly(raw_tokenizer, tmp_path):
    path, raw, meaning = part_of(raw_tokenizer, "merges.txt", tmp_path)
    good = tokenizer_read(path)
    given = {answer(lambda _: good, path, mutate_merges(raw, random.Random(seed)), meaning) for seed in range(100)}
    assert any("do not fit" in text for text in given)  # as a reader of vocab.json alone would do


def test_merges_of_other_parts_are_refused(tmp_path, monkeypatch):
    """Tokens and ids are the same, but encoders by rank and by pair would disagree."""
    path = tmp_path / "source" / "merges.txt"
    train([(SAMPLE / "corpus.txt").read_text()[:50_000]], 600, path.parent)
    (path.parent / "tokenizer.json").unlink()  # it would be read instead
    raw = {name: (path.parent / name).read_bytes() for name in PARTS}
    meaning, vocab, rows = meaning_with(raw, path.name), json.loads(raw["vocab.json"]), raw[path.name].split(b"\n")
    other = []
    for at, row in enumerate(rows[1:-1], start=1):
        token = row.decode().replace(" ", "")
        pairs = [
            f"{token[:cut]} {token[cut:]}" for cut in range(1, len(token)) if {token[:cut], token[cut:]} <= vocab.keys()
        ]
        other += [b"\n".join([*rows[:at], pair.encode(), *rows[at + 1 :]]) for pair in pairs if pair.encode() != row]

    assert len(other) > 20
    assert answer(tokenizer_read, path, raw[path.name], meaning) == "accepted"
    assert {answer(tokenizer_read, path, changed, meaning) for changed in other} == {"refused"}
    monkeypatch.setattr(tokenizer_files, "_check_merges", lambda *_, **__: None)
    assert all("read as" in answer(tokenizer_read, path, changed, meaning) for changed in other[:5])  # the control


# Token files


def windows(path: Path) -> tuple[list[int], int, str]:
    found = TokenWindows(path.parent, "train", 4, 4, 300)
    (tokenizer,) = found.tokenizers
    return found.shards[0].tolist(), found.text_bytes, tokenizer


def shard(raw: bytes) -> tuple[list[int], int, str]:
    """Return a shard as parsed with struct and hashlib."""
    header = json.loads(raw[:512], object_pairs_hook=once)
    counts = [header[key] for key in ("count", "text_bytes", "vocab_size")]
    if any(type(count) is not int or count < 0 for count in counts) or type(header["tokenizer"]) is not str:
        raise ValueError("not the types of a header")
    if len(raw) != 512 + header["count"] * {"uint16": 2, "uint32": 4}[header["dtype"]]:
        raise ValueError("another length")
    ids = list(struct.unpack(f"<{header['count']}{ {'uint16': 'H', 'uint32': 'I'}[header['dtype']] }", raw[512:]))
    if max(ids, default=0) >= 300 or header["vocab_size"] != 300 or header["magic"] != "llm-tokens-1":
        raise ValueError("another vocabulary, or none")
    if header["sha256"] != hashlib.sha256(raw[512:]).hexdigest():
        raise ValueError("changed")
    return ids, header["text_bytes"], header["tokenizer"]


def mutate_shard(raw: bytes, chance: random.Random) -> bytes:
    """Change the header, or the ids with their hash, or any bytes."""
    kind = chance.randrange(3)
    if kind == 0:
        return mutate_bytes(raw, chance)
    if kind == 1:
        return mutate_json(raw[:512].rstrip(), chance).replace(b"\n", b"").ljust(511) + b"\n" + raw[512:]
    body, header = mutate_bytes(raw[512:], chance), json.loads(raw[:512])
    header |= {"sha256": hashlib.sha256(body).hexdigest(), "count": len(body) // 2}
    return json.dumps(header).encode().ljust(511) + b"\n" + body


def test_no_mutation_of_a_token_file_is_misread(tmp_path):
    ids = np.random.default_rng(0).integers(0, 300, 40).astype(np.uint32)
    write_shards(tmp_path, "train", ids, 77, Pins(300, "tokenizer's"), 100)
    path = tmp_path / "train-00000.bin"
    check(answers(windows, path, path.read_bytes(), shard, mutate_shard), accepted=50, refused=500)


def test_the_check_detects_a_token_file_read_wrongly(tmp_path):
    write_shards(tmp_path, "train", np.arange(40, dtype=np.uint32), 77, Pins(300, "t"), 100)
    path = tmp_path / "train-00000.bin"
    raw = path.read_bytes()

    def lax(path: Path) -> Any:
        data = path.read_bytes()
        return np.frombuffer(data[512:], np.uint16).tolist(), 77, "t"

    assert "changed" in answer(lax, path, raw[:-2] + b"\1\0", shard)
    assert "read as" in answer(lax, path, raw.replace(b": 77", b": 78"), shard)


# Model folders


@pytest.fixture
def model(tmp_path, model_config) -> Path:
    """A model folder without a tokenizer."""
    torch.manual_seed(0)
    gpt = GPT(model_config(vocab_size=8, context_length=4, n_layer=1, n_embd=4, dropout=0.1))
    write_json(tmp_path / "config.json", families.published(gpt.config) | {"eos_token_id": 7})
    write_tensors(tmp_path / "model.safetensors", families.export(gpt))
    return tmp_path


GPT2 = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}


def shape(raw: bytes) -> dict[str, Any]:
    """Return config.json as parsed by the json module."""
    found = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=once)
    if any(found.get(key, values[0]) not in values for key, values in GPT2.items()):
        raise ValueError("not a GPT-2")
    sizes = {key: found[key] for key in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    rest = {"resid_pdrop": found.get("resid_pdrop", 0.0), "qkv_bias": True, "tie_word_embeddings": True, "init": "gpt2"}
    rest |= {"embd_pdrop": rest["resid_pdrop"], "attn_pdrop": rest["resid_pdrop"]}
    rest |= {key: found[key] for key in rest if key in found}
    if any(type(rest[key]) is not bool for key in ("qkv_bias", "tie_word_embeddings")):
        raise ValueError("not a flag")
    if any(type(rest[key]) not in (int, float) for key in rest if key.endswith("pdrop")):
        raise ValueError("not a rate")
    parts = {"n_inner": found.get("n_inner"), "layer_norm_epsilon": found.get("layer_norm_epsilon", 1e-5)}
    if type(parts["layer_norm_epsilon"]) not in (int, float):
        raise ValueError("not a number")
    return sizes | rest | parts


def shape_read(path: Path) -> dict[str, Any]:
    config = load_model(path.parent).config
    sizes = {"vocab_size": config.vocab_size, "n_positions": config.context_length, "n_embd": config.n_embd}
    flags = {"qkv_bias": config.qkv_bias, "tie_word_embeddings": config.tie_head, "init": config.init}
    rates = {"embd": config.embedding_rate, "attn": config.attention_rate, "resid": config.dropout}
    depth = {"n_layer": config.n_layer, "n_head": config.n_head}
    parts = {"n_inner": config.parts.n_inner, "layer_norm_epsilon": config.parts.norm_eps}
    return sizes | depth | flags | parts | {f"{key}_pdrop": rate for key, rate in rates.items()}


@pytest.mark.slow
def test_no_mutation_of_a_model_config_is_misread(model):
    path = model / "config.json"
    check(answers(shape_read, path, path.read_bytes(), shape, mutate_json), accepted=100, refused=300)


def test_the_check_detects_a_config_read_wrongly(model):
    def lax(path: Path) -> Any:
        found = json.loads(path.read_text())
        return shape(path.read_bytes()) | {"init": "gpt2"} if found else {}

    path = model / "config.json"
    raw = path.read_text()
    assert "read as" in answer(lax, path, raw.replace('"init": "gpt2"', '"init": "torch"').encode(), shape)
    assert "duplicate key" in answer(
        lambda path: {}, path, raw.replace('"n_head": 2', '"n_head": 2, "n_head": 2').encode(), shape
    )


@pytest.fixture
def spam(model, vocabulary, model_config) -> Path:
    """The config.json of a classifier folder."""
    torch.manual_seed(0)
    classifier = Classifier(GPT(model_config(n_layer=1, n_embd=4)), 2, "last_token", None, True)
    save_classifier(classifier, ["ham", "spam"], vocabulary, model / "spam")
    return model / "spam" / "config.json"


def reading(path: Path) -> Any:
    found, labels = load_classifier(path.parent)
    return labels, found.position, found.pad_to, found.causal


def expected_settings(raw: bytes) -> Any:
    """Return the settings of a classifier, parsed by the json module."""
    shape(raw)
    found = json.loads(raw)
    names, pad_to, causal = found["id2label"], found.get("pad_to"), found.get("causal", True)
    labels = [names["0"], names["1"]] if isinstance(names, dict) and set(names) == {"0", "1"} else []
    if [type(label) for label in labels] != [str, str] or len(set(labels)) < 2:
        raise ValueError("not two labels")
    if found["architectures"] != ["GPT2ForSequenceClassification"] or type(causal) is not bool:
        raise ValueError("not a classifier")
    if found["position"] not in ("first", "last", "last_token", "mean", "mean_all", "last_token_and_mean"):
        raise ValueError("not a position")
    if pad_to is not None and (type(pad_to) is not int or pad_to < 1):
        raise ValueError("not a width")
    return labels, found["position"], pad_to, causal


@pytest.mark.slow
def test_no_mutation_of_a_classifier_config_is_misread(spam):
    check(answers(reading, spam, spam.read_bytes(), expected_settings, mutate_json), accepted=100, refused=300)


def test_the_check_detects_a_classifier_config_read_wrongly(spam):
    raw, good = spam.read_bytes(), reading(spam)

    def given(**changes: Any) -> str:
        return answer(lambda _: good, spam, json.dumps(json.loads(raw) | changes).encode(), expected_settings)

    assert given() == "accepted"
    for changes in ({"id2label": {"1": "ham", "0": "spam"}}, {"position": "first"}, {"pad_to": 4}, {"causal": False}):
        assert "read as" in given(**changes), changes
    assert "not two labels" in given(id2label={"0": "ham", "1": "ham"})
    assert "not a position" in given(position="middle")
    assert "not a width" in given(pad_to=True)
    assert "not a classifier" in given(causal=0)
    assert "not a GPT-2" in given(activation_function="relu")


# Weights

DTYPES = "F64 F32 F16 BF16 I64 I32 I8 U8 BOOL F8_E4M3 F8_E8M0 F4 C64 U16 U32".split()
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def mutate_weights(raw: bytes, chance: random.Random) -> bytes:
    """Change a name, dtype, shape or offset in the header, or any bytes. The header length is mostly correct."""
    if (kind := chance.randrange(6)) == 0:
        return mutate_bytes(raw, chance)
    size = int.from_bytes(raw[:8], "little")
    header, body = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    one, other = chance.sample(sorted(header.keys() - {"__metadata__"}), 2)
    if kind == 1:
        header[one]["dtype"] = chance.choice(DTYPES)
    elif kind == 2:
        header[one], header[other] = header[other], header[one]
    elif kind == 3:
        header[one]["shape"] = chance.choice(
            [header[one]["shape"][::-1], [*header[one]["shape"], 1], [0], [], [-1], [2**40]]
        )
    elif kind == 4:
        header[chance.choice([one.removeprefix("transformer."), one + "s", "h.0.attn.bias", other])] = header.pop(one)
    else:
        line = mutate_json(json.dumps(header).encode(), chance)
        return len(line).to_bytes(8, "little") + line + body
    line = json.dumps(header).encode()
    return len(line).to_bytes(8, "little") + line + body


def arrays(raw: bytes) -> dict[str, Any]:
    """Return the tensors as read by numpy, with their full names, transposed as in PyTorch."""
    size = int.from_bytes(raw[:8], "little")
    found = {}
    for name, entry in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__" and not name.endswith((".attn.bias", ".attn.masked_bias")):
            start, end = entry["data_offsets"]
            flat = np.frombuffer(raw[8 + size :][start:end], NUMPY[entry["dtype"]]).reshape(entry["shape"])
            turned = flat.T if re.search(r"(c_attn|c_proj|c_fc)\.weight$", name) else flat
            found["transformer." + name.removeprefix("transformer.")] = turned.astype(np.float32).tolist()
    return found


def arrays_read(path: Path) -> dict[str, Any]:
    state = load_model(path.parent).state_dict()
    return {name: tensor.tolist() for name, tensor in state.items() if name != "lm_head.weight"}


@pytest.mark.slow
def test_no_mutation_of_weights_is_misread(model):
    path = model / "model.safetensors"
    check(answers(arrays_read, path, path.read_bytes(), arrays, mutate_weights), accepted=100, refused=300)


def test_the_check_detects_weights_read_wrongly(model):
    path = model / "model.safetensors"
    raw = path.read_bytes()
    good = arrays(raw)
    given = {answer(lambda _: good, path, mutate_weights(raw, random.Random(seed)), arrays) for seed in range(100)}
    assert any("read as" in text for text in given)
    assert any("accepted, but" in text for text in given)
