"""GPT-2 as OpenAI published it, a TensorFlow checkpoint, read without TensorFlow.

`model.ckpt.index` is a LevelDB table: blocks of sorted keys, each with a type byte and a checksum, and a footer. Its
keys are the names of the tensors; its values say where each lies in `model.ckpt.data-00000-of-00001`, which is nothing
but their bytes (little-endian). `hparams.json` is the shape of the model.
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
from llm.model.gpt import GPT
from llm.weights import gpt2

HPARAMS, INDEX, DATA_FILE = "hparams.json", "model.ckpt.index", "model.ckpt.data-00000-of-00001"
FILES = (HPARAMS, INDEX, DATA_FILE)
FIX = f"fetch {', '.join(FILES)} of one checkpoint again"

MAGIC = 0xDB4775248B80FB57
FOOTER, HANDLES, TRAILER = 48, 40, 5  # bytes; the footer is two handles, padded with zeros, and the magic number
DT_FLOAT = 1  # of TensorFlow's types.proto
VARINT, BYTES, FIXED32 = 0, 2, 5  # protobuf's wire types


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies in the data file."""

    shape: tuple[int, ...]
    offset: int  # bytes
    size: int  # bytes
    crc32c: int  # masked, of the tensor's bytes


class Damaged(Exception):
    """What is wrong with a file, before its name is known."""


def load_model(folder: Path | str) -> GPT:
    """Read a checkpoint of OpenAI's layout: fp32 on the CPU, with a tied head.

    Every checksum is compared, of the index and of each tensor: the pinned sha256 of a download says nothing of a
    folder brought by hand. Raises UserError for a file that is missing, damaged or of another model, naming it and
    what was found in place of what.
    """
    folder = Path(folder)
    config = gpt2.parse_hparams(read_json(folder / HPARAMS), str(folder / HPARAMS))
    return gpt2.load_openai(config, read_tensors(folder), str(folder / INDEX))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors by TensorFlow's names, mapped rather than copied; a change of theirs does not reach the file."""
    entries = read_index(folder / INDEX)
    path = folder / DATA_FILE
    if not path.is_file():
        raise UserError(str(path), "no such file", FIX, DATA)
    actual = path.stat().st_size
    try:
        _tile(((entry.offset, entry.size, name) for name, entry in entries.items()), actual)
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
    """The entry of every tensor by name; raises UserError unless each byte of the file is accounted for."""
    data = read_bytes(path)
    try:
        pairs = list(_table(data))
        if not pairs or pairs[0][0] != b"":
            raise Damaged("its first key is not the header's, the empty one")
        _check_header(pairs[0][1])
        problems, entries = [], {}
        for key, value in pairs[1:]:
            name = key.decode("utf-8", "backslashreplace")
            try:
                entries[name] = _entry(value)
            except Damaged as damage:
                problems.append(UserError(str(path), f"{name} {damage}", FIX, DATA))
    except Damaged as damage:
        raise UserError(str(path), f"{damage} ({len(data)} bytes in all)", FIX, DATA) from None
    raise_all(problems)
    if not entries:
        raise UserError(str(path), "names 0 tensors", FIX, DATA)
    return entries


# The table


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table, in order."""
    if len(data) < FOOTER:
        raise Damaged(f"has {len(data)} bytes, its footer alone takes {FOOTER}")
    footer = data[-FOOTER:]
    if (magic := int.from_bytes(footer[HANDLES:], "little")) != MAGIC:
        raise Damaged(f"ends with the number {magic:016x}, a table ends with {MAGIC:016x}")
    meta, place = _handle(footer, 0)
    index, place = _handle(footer, place)
    if any(footer[place:HANDLES]):
        raise Damaged(f"its footer is padded with {footer[place:HANDLES].hex()}, not with zeros")
    handles = [_handle(value, 0)[0] for _, value in _block(data, index)]
    spans = [(offset, size + TRAILER, "a block") for offset, size in (*handles, meta, index)]
    _tile(spans, len(data) - FOOTER)
    if entries := len(list(_block(data, meta))):
        raise Damaged(f"its meta block has {entries} entries, not 0")
    last = None
    for handle in handles:
        for key, value in _block(data, handle):
            if last is not None and key <= last:
                raise Damaged(f"its key {key!r} follows {last!r}, keys must ascend")
            yield key, value
            last = key


def _handle(data: bytes, place: int) -> tuple[tuple[int, int], int]:
    offset, place = _varint(data, place)
    size, place = _varint(data, place)
    return (offset, size), place


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block; a key is stored as what differs from the one before."""
    offset, size = handle
    end = offset + size
    if size < 4 or end + TRAILER > len(data) - FOOTER:
        raise Damaged(f"a block of {size} bytes at {offset} does not lie before the footer at {len(data) - FOOTER}")
    stored = int.from_bytes(data[end + 1 : end + TRAILER], "little")
    if (found := masked(crc32c(np.frombuffer(data, np.uint8, size + 1, offset)))) != stored:
        raise Damaged(f"the block at {offset} has the checksum {found:08x}, beside it stands {stored:08x}")
    if data[end] != 0:
        raise Damaged(f"the block at {offset} is of type {data[end]} (compressed), not 0")
    restarts = int.from_bytes(data[end - 4 : end], "little")
    end -= 4 * (restarts + 1)
    if end < offset:
        raise Damaged(f"the block at {offset} has {size} bytes, too few for {restarts} restarts")
    contents, place, key = data[offset:end], 0, b""
    while place < len(contents):
        shared, place = _varint(contents, place)
        new, place = _varint(contents, place)
        length, place = _varint(contents, place)
        if shared > len(key) or place + new + length > len(contents):
            raise Damaged(f"an entry of the block at {offset} goes past its end, {end}")
        key = key[:shared] + contents[place : place + new]
        place += new + length
        yield key, contents[place - length : place]


def _tile(spans: Iterable[tuple[int, int, str]], size: int) -> None:
    """Raise Damaged unless the spans (offset, size, name), in some order, cover 0..size once and without a gap."""
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
        raise Damaged(f"{before} ends at {end}, but the file at {size}")


# The values: protobuf messages


def _check_header(value: bytes) -> None:
    """BundleHeaderProto: num_shards = 1, endianness = 2 (0: little), version = 3."""
    header = _message(value, {1: VARINT, 2: VARINT, 3: BYTES})
    if (shards := _single(header, 1)) != 1:
        raise Damaged(f"the data lies in {shards} shards, not in 1")
    if (endianness := _single(header, 2)) != 0:
        raise Damaged(f"the data is of endianness {endianness}, not 0 (little)")


def _entry(value: bytes) -> Entry:
    """BundleEntryProto: dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, crc32c = 6; no slices = 7."""
    kinds = {1: VARINT, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT, 6: FIXED32}
    entry = _message(value, kinds)
    if (dtype := _single(entry, 1)) != DT_FLOAT:
        raise Damaged(f"is of TensorFlow's type {dtype}, not {DT_FLOAT} (float)")
    if (shard := _single(entry, 3)) != 0:
        raise Damaged(f"lies in shard {shard}, there is only 0")
    shape = tuple(_single(_message(dim, {1: VARINT}), 1) for dim in _dims(entry))
    offset, size, crc = (_single(entry, field) for field in (4, 5, 6))
    if size == 0 or size != 4 * math.prod(shape):
        raise Damaged(f"has {size} bytes, but the shape {shape} takes {4 * math.prod(shape)}")
    return Entry(shape, offset, size, crc)


def _dims(entry: dict[int, list[Any]]) -> list[bytes]:
    """TensorShapeProto: dim = 2, each a message with size = 1."""
    if len(entry.get(2, [])) > 1:
        raise Damaged("has more than one shape")
    return [dim for shape in entry.get(2, []) for dim in _message(shape, {2: BYTES}).get(2, [])]


def _message(data: bytes, kinds: dict[int, int]) -> dict[int, list[Any]]:
    """The values of a message by field; a field that is not among `kinds`, or of another kind, is refused."""
    found: dict[int, list[Any]] = {}
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        field, kind = tag >> 3, tag & 7
        if kinds.get(field) != kind:
            raise Damaged(f"has a field {field} of wire type {kind}, not one of {kinds}")
        value: Any
        if kind == VARINT:
            value, place = _varint(data, place)
        else:
            length, place = _varint(data, place) if kind == BYTES else (4, place)
            value, place = data[place : place + length], place + length
            if place > len(data):
                raise Damaged(f"has a field {field} of {length} bytes, {place - len(data)} too many")
            value = value if kind == BYTES else int.from_bytes(value, "little")
        found.setdefault(field, []).append(value)
    return found


def _single(message: dict[int, list[Any]], field: int) -> int:
    """A number of a message; protobuf leaves out what is 0."""
    values = message.get(field, [0])
    if len(values) != 1:
        raise Damaged(f"has its field {field} {len(values)} times")
    return int(values[0])


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, the lowest first; and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            break
        value |= (data[place] & 0x7F) << shift
        place += 1
        if data[place - 1] < 0x80:
            return value, place
    raise Damaged(f"a number does not end before byte {place}")


# The checksum: CRC-32C (Castagnoli), which zlib does not have

LANES = 4096  # a power of two


def crc32c(data: NDArray[np.uint8]) -> int:
    """CRC-32C of 4 bytes or more; some 500 MB take seconds, not minutes.

    Lanes are reduced side by side, two bytes a step, and then joined in pairs: the register is linear over GF(2), so
    what follows a lane moves its register by a matrix that depends on the length alone. 32 more lanes, of zeros behind
    one bit each, become that matrix.
    """
    words = -(-data.size // (2 * LANES))
    padded = np.zeros((LANES, 2 * words), np.uint8)
    tail = padded.reshape(-1)[-data.size :]  # zeros in front leave a register of 0 as it is
    tail[:] = data
    tail[:4] ^= 0xFF  # the same as a register of ones to begin with
    columns = np.zeros((words, LANES + 32), np.uint16)
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
    """As LevelDB and TensorFlow store a checksum, lest one be taken of data that holds one."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _times(matrix: NDArray[np.uint32], vectors: NDArray[np.uint32]) -> NDArray[np.uint32]:
    chosen = np.where(vectors[:, None] & BITS, matrix, np.uint32(0))
    product: NDArray[np.uint32] = np.bitwise_xor.reduce(chosen, axis=1)
    return product


def _make_table() -> NDArray[np.uint32]:
    """What two bytes of zeros make of a register whose lower half is the place in the table."""
    table: NDArray[np.uint32] = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)
TABLE = _make_table()
