"""Read OpenAI's TensorFlow checkpoint of GPT-2 without TensorFlow.

`model.ckpt.index` is a LevelDB table: blocks of sorted keys, each with a type byte and a checksum, and a footer. Keys
are the names of tensors, values their locations in `model.ckpt.data-00000-of-00001`, which holds only their bytes
(little-endian). `hparams.json` holds the sizes of the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm.common.errors import DATA, UserError, raise_all
from llm.common.files import read_bytes, read_json
from llm.weights import gpt2
from llm.weights.families import Checkpoint

HPARAMS, INDEX, DATA_FILE = "hparams.json", "model.ckpt.index", "model.ckpt.data-00000-of-00001"
FILES = (HPARAMS, INDEX, DATA_FILE)
FIX = f"download {', '.join(FILES)} of one checkpoint again"

MAGIC = 0xDB4775248B80FB57
FOOTER, HANDLES, TRAILER = 48, 40, 5  # bytes; the footer is two handles padded with zeros, then the magic number
DT_FLOAT = 1  # in TensorFlow's types.proto
VARINT, BYTES, FIXED32 = 0, 2, 5  # protobuf's wire types


@dataclass(frozen=True)
class Entry:
    """The location of a tensor in the data file."""

    shape: tuple[int, ...]
    offset: int  # bytes
    size: int  # bytes
    crc32c: int  # masked


class Damaged(Exception):
    """A fault in a file. Callers add its name."""


def read(folder: Path) -> Checkpoint:
    """Read a checkpoint in OpenAI's format.

    All checksums are verified, since the folder may not come from our download. Raises UserError for a file that is
    missing, damaged or of another model.
    """
    config, where = gpt2.parse_hparams(read_json(folder / HPARAMS), str(folder / HPARAMS)), str(folder / INDEX)
    return Checkpoint(config, gpt2.from_openai(config, read_tensors(folder), where), where)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors by TensorFlow's names, memory-mapped; changing them does not change the file."""
    entries = read_index(folder / INDEX)
    path = folder / DATA_FILE
    if not path.is_file():
        raise UserError(str(path), "no such file", FIX, DATA)
    actual = path.stat().st_size
    try:
        _check_coverage(((entry.offset, entry.size, name) for name, entry in entries.items()), actual)
    except Damaged as damage:
        raise UserError(str(path), f"does not fit {INDEX}: {damage}", FIX, DATA) from None
    data = np.memmap(path, np.uint8, mode="c")
    problems, tensors = [], {}
    for name, entry in entries.items():
        raw = data[entry.offset : entry.offset + entry.size]
        if (found := masked(crc32c(raw))) != entry.crc32c:
            what = f"{name} has the checksum {found:08x}, {INDEX} says {entry.crc32c:08x}"
            problems.append(UserError(str(path), what, FIX, DATA))
        tensors[name] = torch.from_numpy(raw.view("<f4").reshape(entry.shape))
    raise_all(problems)
    return tensors


def read_index(path: Path) -> dict[str, Entry]:
    """The entry of each tensor by name; raises UserError unless every byte of the file is accounted for."""
    data = read_bytes(path)
    try:
        pairs = list(_table(data))
        if not pairs or pairs[0][0] != b"":
            raise Damaged("its first key is not that of the header, an empty one")
        _check_header(pairs[0][1])
        problems, entries = [], {}
        for key, value in pairs[1:]:
            name = key.decode("utf-8", "backslashreplace")
            try:
                entries[name] = _entry(value)
            except Damaged as damage:
                problems.append(UserError(str(path), f"{name} {damage}", FIX, DATA))
    except Damaged as damage:
        raise UserError(str(path), f"{damage} (size: {len(data)} bytes)", FIX, DATA) from None
    raise_all(problems)
    if not entries:
        raise UserError(str(path), "names 0 tensors", FIX, DATA)
    return entries


# The table


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of the table, in order."""
    if len(data) < FOOTER:
        raise Damaged(f"has {len(data)} bytes, fewer than the {FOOTER} of a footer")
    footer = data[-FOOTER:]
    if (magic := int.from_bytes(footer[HANDLES:], "little")) != MAGIC:
        raise Damaged(f"has the magic number {magic:016x}, not {MAGIC:016x}")
    meta, at = _handle(footer, 0)
    index, at = _handle(footer, at)
    if any(footer[at:HANDLES]):
        raise Damaged(f"its footer is padded with {footer[at:HANDLES].hex()}, not with zeros")
    handles = [_handle(value, 0)[0] for _, value in _block(data, index)]
    spans = [(offset, size + TRAILER, "a block") for offset, size in (*handles, meta, index)]
    _check_coverage(spans, len(data) - FOOTER)
    if entries := len(list(_block(data, meta))):
        raise Damaged(f"its meta block has {entries} entries, not 0")
    last = None
    for handle in handles:
        for key, value in _block(data, handle):
            if last is not None and key <= last:
                raise Damaged(f"its key {key!r} follows {last!r}, but keys must ascend")
            yield key, value
            last = key


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block. A key is stored as the part that differs from the key before."""
    offset, size = handle
    end = offset + size
    if size < 4 or end + TRAILER > len(data) - FOOTER:
        raise Damaged(f"a block of {size} bytes at {offset} does not fit before the footer at {len(data) - FOOTER}")
    stored = int.from_bytes(data[end + 1 : end + TRAILER], "little")
    if (found := masked(crc32c(np.frombuffer(data, np.uint8, size + 1, offset)))) != stored:
        raise Damaged(f"the block at {offset} has the checksum {found:08x}, but {stored:08x} is stored")
    if data[end] != 0:
        raise Damaged(f"the block at {offset} is of type {data[end]} (compressed), not 0")
    restarts = int.from_bytes(data[end - 4 : end], "little")
    end -= 4 * (restarts + 1)
    if end < offset:
        raise Damaged(f"the block at {offset} has {size} bytes, too few for {restarts} restarts")
    contents, at, key = data[offset:end], 0, b""
    while at < len(contents):
        shared, at = _varint(contents, at)
        new, at = _varint(contents, at)
        length, at = _varint(contents, at)
        if shared > len(key) or at + new + length > len(contents):
            raise Damaged(f"an entry of the block at {offset} exceeds its end, {end}")
        key = key[:shared] + contents[at : at + new]
        at += new + length
        yield key, contents[at - length : at]


def _check_coverage(spans: Iterable[tuple[int, int, str]], size: int) -> None:
    """Raise Damaged unless the spans (offset, size, name) cover all `size` bytes without gap or overlap."""
    end, before = 0, "the start"
    spans = sorted(spans)
    for offset, length, name in spans:
        if offset + length > size:
            raise Damaged(f"{name} at {offset} takes {length} bytes, past the end at {size}")
    for offset, length, name in spans:
        if offset != end:
            how = "overlaps" if offset < end else "leaves a gap after"
            raise Damaged(f"{name} at {offset} {how} {before}, which ends at {end}")
        end, before = offset + length, name
    if end != size:
        raise Damaged(f"{before} ends at {end}, but the file ends at {size}")


# The values: protobuf messages


def _check_header(value: bytes) -> None:
    """BundleHeaderProto: num_shards = 1, endianness = 2 (0: little), version = 3."""
    header = _message(value, {1: VARINT, 2: VARINT, 3: BYTES})
    if (shards := _single(header, 1)) != 1:
        raise Damaged(f"the data is in {shards} shards, not 1")
    if (endianness := _single(header, 2)) != 0:
        raise Damaged(f"the data has endianness {endianness}, not 0 (little)")


def _entry(value: bytes) -> Entry:
    """BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, crc32c = 6; no slices = 7."""
    entry = _message(value, {1: VARINT, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT, 6: FIXED32})
    if (dtype := _single(entry, 1)) != DT_FLOAT:
        raise Damaged(f"has TensorFlow's type {dtype}, not {DT_FLOAT} (float)")
    if (shard := _single(entry, 3)) != 0:
        raise Damaged(f"is in shard {shard}, but there is only shard 0")
    if len(entry.get(2, [])) > 1:
        raise Damaged("has more than one shape")
    dims = _message(b"".join(entry.get(2, [])), {2: BYTES}).get(2, [])  # TensorShapeProto: dim = 2, each with size = 1
    shape = tuple(_single(_message(dim, {1: VARINT}), 1) for dim in dims)
    offset, size, crc = (_single(entry, field) for field in (4, 5, 6))
    if size == 0 or size != 4 * math.prod(shape):
        raise Damaged(f"has {size} bytes, but its shape {shape} needs {4 * math.prod(shape)}")
    return Entry(shape, offset, size, crc)


def _message(data: bytes, kinds: dict[int, int]) -> dict[int, list[Any]]:
    """The values of each field of a message; raises Damaged for fields or wire types other than `kinds`."""
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kinds.get(field) != kind:
            raise Damaged(f"has a field {field} of wire type {kind}, expected {kinds}")
        value: Any
        if kind == VARINT:
            value, at = _varint(data, at)
        else:
            length, at = _varint(data, at) if kind == BYTES else (4, at)
            value, at = data[at : at + length], at + length
            if at > len(data):
                raise Damaged(f"has a field {field} of {length} bytes, {at - len(data)} too many")
            value = value if kind == BYTES else int.from_bytes(value, "little")
        found.setdefault(field, []).append(value)
    return found


def _single(message: dict[int, list[Any]], field: int) -> int:
    """A number of a message. Protobuf leaves out fields that are 0."""
    values = message.get(field, [0])
    if len(values) != 1:
        raise Damaged(f"has field {field} {len(values)} times")
    return int(values[0])


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and the index after it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise Damaged(f"has a number that does not end before byte {at}")


# The checksum: CRC-32C (Castagnoli), which is not in zlib

LANES = 4096  # a power of two


def crc32c(data: NDArray[np.uint8]) -> int:
    """CRC-32C of at least 4 bytes; 500 MB take seconds.

    The data is split into lanes that are computed in parallel, two bytes a step, and then joined in pairs. The register
    is linear over GF(2): bytes after a lane multiply its register by a matrix that depends only on their number. 32
    more lanes, a single bit followed by zeros, compute that matrix.
    """
    steps = -(-data.size // (2 * LANES))
    padded = np.zeros((LANES, 2 * steps), np.uint8)
    tail = padded.reshape(-1)[-data.size :]  # zeros in front do not change a register of 0
    tail[:] = data
    tail[:4] ^= 0xFF  # the same as starting with a register of ones
    columns = np.zeros((steps, LANES + 32), np.uint16)
    columns[:, :LANES] = padded.view("<u2").T
    register = np.zeros(LANES + 32, np.uint32)
    register[LANES:] = BITS
    for column in columns:
        register = TABLE[(register ^ column) & 0xFFFF] ^ (register >> 16)
    parts, shift = register[:LANES], register[LANES:]
    while parts.size > 1:
        parts = _times(shift, parts[::2]) ^ parts[1::2]
        shift = _times(shift, shift)
    return int(parts[0]) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """A checksum as LevelDB and TensorFlow store it, so that data may contain checksums of itself."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _times(matrix: NDArray[np.uint32], vectors: NDArray[np.uint32]) -> NDArray[np.uint32]:
    chosen = np.where(vectors[:, None] & BITS, matrix, np.uint32(0))
    product: NDArray[np.uint32] = np.bitwise_xor.reduce(chosen, axis=1)
    return product


def _make_table() -> NDArray[np.uint32]:
    """The register after two zero bytes, indexed by its lower half before them."""
    table: NDArray[np.uint32] = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)
TABLE = _make_table()
