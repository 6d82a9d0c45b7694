"""Bytes of a text file as text: the declared encoding, or the one that its bytes show."""

from __future__ import annotations

import codecs
from contextlib import suppress
from pathlib import Path

from llm.common.errors import DATA, UserError
from llm.common.files import read_bytes
from llm.data import signatures

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]


def read_decoded(path: Path, encoding: str | None, key: str) -> tuple[str, str]:
    """Return the text of a file with LF line ends, and its encoding. `encoding` None: guess.

    The guess is the encoding of the byte-order mark; UTF-16 if every second byte is mostly zero; Windows-1252 (which
    includes printable Latin-1) if more bytes are not UTF-8 than characters beyond ASCII are; else UTF-8. Raises
    UserError for an empty file, for one that is no text, and for a byte that is not in the encoding; `key` is the
    parameter that declares it.
    """
    refuse_other_kinds(data := read_bytes(path), path)
    found = encoding or _guess(data)
    try:
        text = data.decode("utf-8-sig" if codecs.lookup(found).name == "utf-8" else found)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} at offset {error.start} is not {found.upper()}"
        raise UserError(f"{path}:{line}", what, f"save the file as UTF-8, or declare {key}", DATA) from None
    text = text.replace("\r\n", "\n")
    if "\n" not in text:
        text = text.replace("\r", "\n")  # line ends of old Macs
    text = text.replace("\n\ufeff", "\n")  # byte-order marks of joined files
    if not text.strip():
        raise UserError(str(path), f"the file is empty ({len(data)} bytes)", "add text to it", DATA)
    return text, found


def refuse_other_kinds(data: bytes, path: Path) -> None:
    """Raise UserError if a file that begins with `data` is binary, or an error page of a server."""
    if page := signatures.error_page(data):
        raise UserError(str(path), f"is {page}, not the data", "download the file itself", DATA)
    if found := signatures.binary(data):
        raise UserError(str(path), f"is {found[0]}, not text", found[1], DATA)


def has_lone_surrogate(text: str) -> bool:
    """Whether a text has half of a UTF-16 pair, which JSON can write as an escape, and UTF-8 cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _guess(data: bytes) -> str:
    for mark, name in MARKS:
        if data.startswith(mark):
            return name
    sample = data[:100_000]
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        half = sample[start::2]
        if half and half.count(0) > 0.7 * len(half) and sample[1 - start :: 2].count(0) < 0.3 * len(half):
            return name
    lenient = data.decode("utf-8", errors="replace")
    wrong = lenient.count("\ufffd") - data.count("\ufffd".encode())
    valid = sum(character > "\x7f" for character in lenient) - lenient.count("\ufffd")
    if wrong > valid:
        with suppress(UnicodeDecodeError):
            data.decode("cp1252")
            return "cp1252"
    return "utf-8"
