"""OpenAI's TensorFlow checkpoint: the logits of transformers, and refusal of every damaged file."""

from __future__ import annotations

import importlib.util
import json
import math
import random
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from llm.common.errors import DATA, UserError, UserErrors
from llm.model.gpt import GPT, count_parameters
from llm.weights import gpt2
from llm.weights.layout import HEAD
from llm.weights.model_folder import save_model
from llm.weights.openai_checkpoint import (
    DATA_FILE,
    FILES,
    HPARAMS,
    INDEX,
    Entry,
    crc32c,
    masked,
    read,
    read_index,
)
from stages import import_gpt2
from tests.llm.weights.fixtures.write_tf_checkpoint import TINY, shapes, tensors, write

FIXTURE = Path(__file__).parent / "fixtures" / "tf_checkpoint"  # written by TensorFlow 2.21
GPT2_124M = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12}
IDS = torch.randint(300, (2, 16), generator=torch.Generator().manual_seed(1))
INDEX_BYTES = (FIXTURE / INDEX).read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the fixture, to damage."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "tf"))


def theirs(hparams: dict[str, int], values: dict[str, Any]) -> GPT2LMHeadModel:
    """GPT-2 of transformers, with OpenAI's tensors assigned by name."""
    shape = {"vocab_size": hparams["n_vocab"], "n_positions": hparams["n_ctx"]}
    model = GPT2LMHeadModel(GPT2Config(**shape, **{key: hparams[key] for key in ("n_embd", "n_head", "n_layer")}))
    body = model.transformer

    def assign(module: torch.nn.Module, weight: str, bias: str | None = None) -> None:
        with torch.no_grad():
            module.weight.copy_(torch.from_numpy(values[weight]).reshape(module.weight.shape))
            if bias:
                module.bias.copy_(torch.from_numpy(values[bias]))

    assign(body.wte, "model/wte")
    assign(body.wpe, "model/wpe")
    assign(body.ln_f, "model/ln_f/g", "model/ln_f/b")
    for number, block in enumerate(body.h):
        here = f"model/h{number}"
        assign(block.ln_1, f"{here}/ln_1/g", f"{here}/ln_1/b")
        assign(block.attn.c_attn, f"{here}/attn/c_attn/w", f"{here}/attn/c_attn/b")
        assign(block.attn.c_proj, f"{here}/attn/c_proj/w", f"{here}/attn/c_proj/b")
        assign(block.ln_2, f"{here}/ln_2/g", f"{here}/ln_2/b")
        assign(block.mlp.c_fc, f"{here}/mlp/c_fc/w", f"{here}/mlp/c_fc/b")
        assign(block.mlp.c_proj, f"{here}/mlp/c_proj/w", f"{here}/mlp/c_proj/b")
    return model.eval()


def logits(model: torch.nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        answer = model.eval()(ids)
    return answer if isinstance(answer, Tensor) else answer.logits


# A checkpoint written by TensorFlow


def test_checkpoint_of_tensorflow_gives_transformers_logits() -> None:
    model = read(FIXTURE).model()
    torch.testing.assert_close(logits(model), logits(theirs(TINY, tensors(TINY, 0.3))), atol=1e-4, rtol=0)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("first", "second"),
    [("model/h0/ln_1/g", "model/h0/ln_2/g"), ("model/h0/attn/c_attn/w", "model/h1/attn/c_attn/w")],
)
def test_parity_notices_two_tensors_swapped(first: str, second: str) -> None:
    values = tensors(TINY, 0.3)
    values[first], values[second] = values[second], values[first]
    assert (logits(read(FIXTURE).model()) - logits(theirs(TINY, values))).abs().max() > 1e-3


def test_parity_notices_a_matrix_not_transposed() -> None:
    values = tensors(TINY, 0.3)
    values["model/h0/attn/c_proj/w"] = values["model/h0/attn/c_proj/w"].transpose(0, 2, 1).copy()
    assert (logits(read(FIXTURE).model()) - logits(theirs(TINY, values))).abs().max() > 1e-3


def test_changing_the_model_leaves_the_file_alone(folder: Path) -> None:
    before = (folder / DATA_FILE).read_bytes()
    with torch.no_grad():
        for parameter in read(folder).model().parameters():
            parameter.add_(1)
    assert (folder / DATA_FILE).read_bytes() == before


def test_index_of_openai_lists_the_whole_model(mirror: Path) -> None:
    entries = read_index(mirror / "gpt2-124M" / INDEX)
    assert {name: entry.shape for name, entry in entries.items()} == shapes(GPT2_124M)
    assert sum(math.prod(entry.shape) for entry in entries.values()) == 124_439_808
    ordered = sorted(entries.values(), key=lambda entry: entry.offset)
    assert [entry.offset for entry in ordered] == [sum(e.size for e in ordered[:n]) for n in range(len(ordered))]
    assert ordered[-1].offset + ordered[-1].size == 497_759_232
    assert json.loads((mirror / "gpt2-124M" / HPARAMS).read_text()) == GPT2_124M


def test_all_our_tensors_have_openais_names(mirror: Path) -> None:
    config = gpt2.parse_hparams(GPT2_124M, HPARAMS)
    with torch.device("meta"):
        names = GPT(config).state_dict().keys() - {HEAD}
    assert {gpt2.openai_name(name) for name in names} == read_index(mirror / "gpt2-124M" / INDEX).keys()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="pip install .[tensorflow]")
def test_full_size_checkpoint_of_tensorflow_gives_transformers_logits(tmp_path: Path) -> None:
    values = tensors(GPT2_124M, 0.05)
    write(tmp_path, GPT2_124M, values)
    assert (tmp_path / DATA_FILE).stat().st_size == 497_759_232
    ids = torch.randint(50257, (1, 64), generator=torch.Generator().manual_seed(1))
    model = read(tmp_path).model()
    assert count_parameters(model) == 124_439_808
    ours, reference = logits(model, ids), logits(theirs(GPT2_124M, values), ids)
    print(f"largest difference {(ours - reference).abs().max():.2e}, largest logit {reference.abs().max():.2f}")
    torch.testing.assert_close(ours, reference, atol=1e-4, rtol=0)


# The stage


def test_stage_recognises_both_formats(tmp_path: Path, vocabulary: Path) -> None:
    model = import_gpt2.read(FIXTURE).model()
    save_model(model, vocabulary, tmp_path)
    again = import_gpt2.read(tmp_path).model()
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_folder_with_both_formats_is_refused(folder: Path, vocabulary: Path) -> None:
    save_model(read(folder).model(), vocabulary, folder)
    with pytest.raises(UserError, match=r"holds two formats: hparams.json.* and config.json, model.safetensors"):
        import_gpt2.read(folder).model()


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match="no such file") as caught:
        import_gpt2.read(folder).model()
    assert (caught.value.where, caught.value.code) == (str(folder / name), DATA)


def test_empty_folder_is_read_as_the_usual_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config.json: no such file"):
        import_gpt2.read(tmp_path).model()


# Checksums


def slow_crc32c(data: bytes) -> int:
    """By definition, bit by bit."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def fast_crc32c(data: bytes) -> int:
    return crc32c(np.frombuffer(data, np.uint8))


@pytest.mark.parametrize(
    ("data", "crc"),  # RFC 3720, appendix B.4, and the usual check value
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc32c_of_published_examples(data: bytes, crc: int) -> None:
    assert fast_crc32c(data) == slow_crc32c(data) == crc


@pytest.mark.parametrize("size", [4, 5, 4095, 8191, 8192, 8193, 16384, 40001])
def test_crc32c_in_lanes_is_the_crc32c(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert fast_crc32c(data) == slow_crc32c(data)


def test_mask_is_the_one_of_leveldb() -> None:
    assert masked(0) == 0xA282EAD8
    assert masked(0x12345678) == ((0x12345678 >> 15 | 0x12345678 << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


# Damage found by checksums and sizes


def read_bytes_as_index(data: bytes, folder: Path) -> dict[str, Entry]:
    (folder / INDEX).write_bytes(data)
    return read_index(folder / INDEX)


@pytest.mark.slow
def test_every_changed_byte_of_the_index_is_refused(tmp_path: Path) -> None:
    masks = random.Random(0)
    for place in range(len(INDEX_BYTES)):
        changed = bytearray(INDEX_BYTES)
        changed[place] ^= masks.randrange(1, 256)
        with pytest.raises(UserError) as caught:
            read_bytes_as_index(bytes(changed), tmp_path)
        assert (caught.value.where, caught.value.code) == (str(tmp_path / INDEX), DATA)


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, len(INDEX_BYTES) - 1), flips=st.lists(st.integers(0, 8 * len(INDEX_BYTES) - 1), max_size=4))
def test_no_truncated_index_is_read(tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[int]) -> None:
    changed = bytearray(INDEX_BYTES)
    for flip in flips:
        changed[flip // 8] ^= 1 << flip % 8
    with pytest.raises(UserError):
        read_bytes_as_index(bytes(changed[:cut]), tmp_path_factory.getbasetemp())


def test_unchanged_index_is_read(tmp_path: Path) -> None:
    """Control: the two tests above would pass for a reader that refuses everything."""
    entries = read_bytes_as_index(INDEX_BYTES, tmp_path)
    assert {name: entry.shape for name, entry in entries.items()} == shapes(TINY)


@pytest.mark.parametrize("place", [0, 1234, 17151])
def test_changed_byte_of_the_data_names_its_tensor(folder: Path, place: int) -> None:
    data = bytearray((folder / DATA_FILE).read_bytes())
    data[place] ^= 1
    (folder / DATA_FILE).write_bytes(data)
    entries = read_index(folder / INDEX).items()
    (name,) = [name for name, entry in entries if entry.offset <= place < entry.offset + entry.size]
    with pytest.raises(UserError, match=rf"{name} has the checksum [0-9a-f]{{8}}, model.ckpt.index says") as caught:
        read(folder).model()
    assert (caught.value.where, caught.value.code) == (str(folder / DATA_FILE), DATA)


def test_all_damaged_tensors_are_listed(folder: Path) -> None:
    (folder / DATA_FILE).write_bytes(bytes(17152))
    with pytest.raises(UserErrors) as caught:
        read(folder).model()
    assert len(caught.value.problems) == len(shapes(TINY))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "model/h0/attn/c_attn/b at 0 takes 96 bytes, past the end at 0"),
        (17151, "model/wte at 7552 takes 9600 bytes, past the end at 17151"),
        (17153, "model/wte ends at 17152, but the file ends at 17153"),
    ],
)
def test_data_of_another_size_is_refused_with_both_sizes(folder: Path, size: int, message: str) -> None:
    (folder / DATA_FILE).write_bytes(((folder / DATA_FILE).read_bytes() + b"x")[:size])
    with pytest.raises(UserError, match=f"does not fit model.ckpt.index: {message}"):
        read(folder).model()


# Damage with valid checksums: an index written here


def varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


HEADER = field(1, 1) + field(3, field(1, 1))


def encoded(entry: Entry, dtype: int = 1, shard: int = 0, extra: bytes = b"") -> bytes:
    shape = b"".join(field(2, field(1, size)) for size in entry.shape)
    crc = varint(6 << 3 | 5) + entry.crc32c.to_bytes(4, "little")
    places = field(3, shard) + field(4, entry.offset) + field(5, entry.size)
    return field(1, dtype) + field(2, shape) + places + crc + extra


def sealed(contents: bytes, kind: int = 0) -> bytes:
    """A block with its type and checksum."""
    data = contents + bytes([kind])
    return data + masked(fast_crc32c(data)).to_bytes(4, "little")


def block(pairs: list[tuple[bytes, bytes]]) -> bytes:
    entries = b"".join(varint(0) + varint(len(key)) + varint(len(value)) + key + value for key, value in pairs)
    return entries + bytes(4) + (1).to_bytes(4, "little")


def table(blocks: list[bytes], meta: bytes | None = None, kind: int = 0) -> bytes:
    """A table of the blocks' contents."""
    data, handles = b"", []
    for number, contents in enumerate(blocks):
        handles.append((b"%04d" % number, varint(len(data)) + varint(len(contents))))
        data += sealed(contents, kind)
    places = b""
    for contents in (block([]) if meta is None else meta, block(handles)):
        places += varint(len(data)) + varint(len(contents))
        data += sealed(contents)
    return data + places.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def pairs_of(folder: Path) -> dict[bytes, bytes]:
    """The fixture's keys and values as this file encodes them."""
    entries = {name.encode(): encoded(entry) for name, entry in read_index(folder / INDEX).items()}
    return {b"": HEADER} | dict(sorted(entries.items()))


def test_index_of_several_blocks_is_read(folder: Path) -> None:
    right, pairs = logits(read(folder).model()), list(pairs_of(folder).items())
    (folder / INDEX).write_bytes(table([block(pairs[:7]), block(pairs[7:8]), block(pairs[8:])]))
    assert torch.equal(logits(read(folder).model()), right)


Pairs = dict[bytes, bytes]
LN_F = "model/ln_f/b"


def change(name: str = LN_F, **changes: Any) -> Callable[[Pairs, dict[str, Entry]], None]:
    """Encode one entry with changes; `dtype`, `shard` and `extra` are not fields of Entry."""

    def apply(pairs: Pairs, entries: dict[str, Entry]) -> None:
        around = {key: changes[key] for key in ("dtype", "shard", "extra") if key in changes}
        inside = {key: value for key, value in changes.items() if key not in around}
        pairs[name.encode()] = encoded(replace(entries[name], **inside), **around)

    return apply


def set_header(value: bytes) -> Callable[[Pairs, dict[str, Entry]], None]:
    return lambda pairs, _: pairs.update({b"": value})


WRONG_VALUES: dict[str, tuple[Callable[[Pairs, dict[str, Entry]], Any], str]] = {
    "dtype half": (change(dtype=19), rf"{LN_F} has TensorFlow's type 19, not 1 \(float\)"),
    "dtype missing": (change(dtype=0), f"{LN_F} has TensorFlow's type 0, not 1"),
    "another shard": (change(shard=1), f"{LN_F} is in shard 1, but there is only shard 0"),
    "two shards": (set_header(field(1, 2) + field(3, b"")), "the data is in 2 shards, not 1"),
    "big-endian": (set_header(field(1, 1) + field(2, 1)), r"has endianness 1, not 0 \(little\)"),
    "sliced": (change(extra=field(7, b"")), f"{LN_F} has a field 7 of wire type 2"),
    "field twice": (change(extra=field(4, 0)), f"{LN_F} has field 4 2 times"),
    "shape twice": (change(extra=field(2, b"")), f"{LN_F} has more than one shape"),
    "value cut": (change(extra=b"\x0a"), f"{LN_F} has a field 1 of wire type 2"),
    "number without end": (change(extra=b"\xff" * 12), f"{LN_F} has a number that does not end"),
    "size unlike the shape": (change(size=28), rf"{LN_F} has 28 bytes, but its shape \(8,\) needs 32"),
    "no elements": (change(shape=(0,), size=0), f"{LN_F} has 0 bytes"),
    "dim of -1": (change(shape=(2**64 - 1,)), rf"has 32 bytes, but its shape \({2**64 - 1},\)"),
    "offset past the end": (change(offset=1 << 40), f"{LN_F} at {1 << 40} takes 32 bytes, past the end at 17152"),
    "gap": (lambda pairs, _: pairs.pop(LN_F.encode()), r" leaves a gap after model/.*, which ends at \d+"),
    "offset of another": (change(offset=0), r" at 0 overlaps model/.*, which ends at"),
    "missing": (lambda pairs, _: pairs.pop(b"model/wte"), "model/wpe ends at 7552, but the file ends at 17152"),
    "no header": (lambda pairs, _: pairs.pop(b""), "its first key is not that of the header"),
    "no tensors": (lambda pairs, _: [pairs.pop(key) for key in list(pairs) if key], "names 0 tensors"),
}


@pytest.mark.parametrize(("damage", "message"), WRONG_VALUES.values(), ids=WRONG_VALUES.keys())
def test_wrong_value_under_a_right_checksum_is_refused(
    folder: Path, damage: Callable[[Pairs, dict[str, Entry]], Any], message: str
) -> None:
    pairs = pairs_of(folder)
    damage(pairs, read_index(folder / INDEX))
    (folder / INDEX).write_bytes(table([block(list(pairs.items()))]))
    with pytest.raises(UserError, match=message) as caught:
        read(folder).model()
    assert Path(caught.value.where).name in (INDEX, DATA_FILE)
    assert caught.value.code == DATA


ROWS = [(b"", HEADER), (b"a", b"")]
WRONG_TABLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has 0 bytes, fewer than the 48 of a footer"),
    "magic": (INDEX_BYTES[:-1] + b"\0", "has the magic number 004775248b80fb57, not db4775248b80fb57"),
    "padding": (INDEX_BYTES[:-9] + b"\1" + INDEX_BYTES[-8:], "its footer is padded with 0+1, not with zeros"),
    "compressed": (table([block(ROWS)], kind=1), r"is of type 1 \(compressed\), not 0"),
    "surplus bytes": (b"\0" + INDEX_BYTES, "has the checksum|does not fit before the footer"),
    "unused block": (sealed(b"") + table([block(ROWS)]), "has the checksum|leaves a gap|too few"),
    "meta block not empty": (table([block(ROWS)], meta=block(ROWS)), "its meta block has 2 entries, not 0"),
    "keys unsorted": (table([block(ROWS[:1]), block([(b"b", b""), (b"a", b"")])]), "its key b'a' follows b'b'"),
    "key twice": (table([block(ROWS), block(ROWS[1:])]), "its key b'a' follows b'a'"),
    "block too small": (table([b""]), "a block of 0 bytes at 0 does not fit before the footer"),
    "restarts past the block": (table([(9).to_bytes(4, "little")]), "has 4 bytes, too few for 9 restarts"),
    "entry past the block": (
        table([b"\0\x09\0" + bytes(4) + b"\1\0\0\0"]),
        "an entry of the block at 0 exceeds its end",
    ),
    "shares more than there is": (
        table([b"\2\0\0" + bytes(4) + b"\1\0\0\0"]),
        "an entry of the block at 0 exceeds its end",
    ),
    "text": (b"<!doctype html>" * 9, "has the magic number"),
}


@pytest.mark.parametrize(("data", "message"), WRONG_TABLES.values(), ids=WRONG_TABLES.keys())
def test_invalid_table_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_bytes_as_index(data, tmp_path)
    assert (caught.value.where, caught.value.code) == (str(tmp_path / INDEX), DATA)


@settings(max_examples=150, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=3)), min_size=1, max_size=3), data=st.data())
def test_block_of_anything_gives_tensors_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    contents = bytearray(block(list(pairs_of(FIXTURE).items())))
    for place, new in edits:
        contents[place % len(contents) : place % len(contents) + data.draw(st.integers(0, 3))] = new
    entries: dict[str, Entry] = {}
    with suppress(UserError):  # anything else would fail here
        entries = read_bytes_as_index(table([bytes(contents)]), tmp_path_factory.getbasetemp())
    assert all(entry.size == 4 * math.prod(entry.shape) > 0 for entry in entries.values())


# A valid file of another model


def rewritten(folder: Path, changes: dict[str, Any]) -> None:
    """Write index and data with some tensors replaced, added or (None) left out."""
    values = {name: value for name, value in (tensors(TINY, 0.3) | changes).items() if value is not None}
    data, pairs = b"", [(b"", HEADER)]
    for name, value in sorted(values.items()):
        raw = value.astype("<f4").tobytes()
        entry = Entry(value.shape, len(data), len(raw), masked(fast_crc32c(raw)))
        pairs.append((name.encode(), encoded(entry)))
        data += raw
    (folder / DATA_FILE).write_bytes(data)
    (folder / INDEX).write_bytes(table([block(pairs)]))


def test_rewriting_without_changes_keeps_a_checkpoint_valid(folder: Path) -> None:
    before = [(folder / DATA_FILE).read_bytes(), logits(read(folder).model())]
    rewritten(folder, {})
    assert (folder / DATA_FILE).read_bytes() == before[0]
    assert torch.equal(logits(read(folder).model()), before[1])


W = "model/h0/attn/c_attn/w"
FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"model/h1/ln_2/b": None}, "model/h1/ln_2/b is missing"),
    "extra": ({"model/h2/ln_1/g": np.ones(8)}, "model/h2/ln_1/g is not a tensor of this GPT-2"),
    "optimizer": ({"beta1_power": np.ones(1)}, "beta1_power is not a tensor of this GPT-2"),
    "other name of one": ({"model/wte/w": np.ones((1, 300, 8))}, "model/wte/w is not a tensor of this GPT-2"),
    "misshaped": ({LN_F: np.ones(4)}, rf"{LN_F} has the shape \(4,\), not \(8,\)"),
    "transposed": ({W: np.ones((1, 24, 8))}, rf"{W} has the shape \(1, 24, 8\), not \(1, 8, 24\)"),
    "no width": ({W: np.ones((8, 24))}, rf"{W} has the shape \(8, 24\), not \(1, 8, 24\)"),
    "NaN": ({LN_F: np.full(8, np.nan)}, f"{LN_F} holds NaN or infinity"),
}


@pytest.mark.parametrize(("changes", "message"), FOREIGN.values(), ids=FOREIGN.keys())
def test_tensor_that_does_not_fit_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    rewritten(folder, changes)
    with pytest.raises(UserError, match=message) as caught:
        read(folder).model()
    assert (caught.value.where, caught.value.code) == (str(folder / INDEX), DATA)


def test_all_tensors_that_do_not_fit_are_listed_together(folder: Path) -> None:
    rewritten(folder, {LN_F: None, "model/extra": np.ones(1), W: np.ones((8, 24))})
    with pytest.raises(UserErrors) as caught:
        read(folder).model()
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_vocab": None}, "n_vocab is None, not a whole number above 0"),
        ({"n_head": 0}, "n_head is 0"),
        ({"n_layer": True}, "n_layer is True"),
        ({"n_ctx": "16"}, "n_ctx is '16'"),
        ({"n_head": 3}, r"n_embd: 8 is not divisible by n_head \(3\)"),
        ({"n_inner": 64}, "n_inner is 64, but GPT-2 has only n_vocab, n_ctx"),
        ({"n_vocab": 301}, r"model/wte has the shape \(300, 8\), not \(301, 8\)"),
        ({"n_layer": 1}, "model/h1/ln_1/b is not a tensor of this GPT-2"),
        ({"n_layer": 3}, "model/h2/ln_1/g is missing"),
    ],
    ids=str,
)
def test_hparams_of_another_model_are_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    hparams = {key: value for key, value in (TINY | changes).items() if value is not None}
    (folder / HPARAMS).write_text(json.dumps(hparams))
    with pytest.raises(UserError) as caught:
        read(folder).model()
    problems = "\n".join(map(str, getattr(caught.value, "problems", [caught.value])))
    assert re.search(message, problems)


def test_hparams_that_are_no_object_are_refused(folder: Path) -> None:
    (folder / HPARAMS).write_text("[1]")
    with pytest.raises(UserError, match="holds list, not an object"):
        read(folder).model()
