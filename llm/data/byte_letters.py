"""The letters that stand for bytes in the files of a byte-level BPE."""

from __future__ import annotations

BYTES = 256


def _byte_letters() -> dict[str, int]:
    """Return the byte of each letter in GPT-2's files: itself if printable, else a letter from U+0100 on."""
    letters, unused = {}, BYTES
    for byte in range(BYTES):
        printable = chr(byte).isprintable() and chr(byte) != " "
        letters[chr(byte) if printable else chr(unused)] = byte
        unused += not printable
    return letters


LETTERS = _byte_letters()


def to_bytes(token: str) -> bytes:
    """The bytes of a token."""
    return bytes(LETTERS[letter] for letter in token)
