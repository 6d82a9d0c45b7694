"""What a file is by its first bytes, if it is not the text that was expected."""

from __future__ import annotations

# The first bytes, what has them, and what to do with it.
BINARY = (
    (b"\x1f\x8b", "a gzip file", "decompress it"),
    (b"BZh", "a bzip2 file", "decompress it"),
    (b"\xfd7zXZ\x00", "an xz file", "decompress it"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "decompress it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "take the file out of it"),
    (b"PK\x03\x04", "a zip archive", "take the file out of it"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a file of Microsoft Office", "save the sheet as CSV"),
    (b"%PDF-", "a PDF file", "save its text in a text file"),
    (b"SQLite format 3\x00", "an SQLite database", "export the table as CSV"),
    (b"PAR1", "a Parquet file", "set its format to parquet"),
    (b"ARROW1\x00\x00", "an Arrow file", "save it as Parquet"),
)
WORKBOOK = (b"[Content_Types].xml", b"xl/")  # the first names in a zip archive that is an Excel workbook
# What some servers send instead of a file, in lower case.
HTML = "an HTML page"
ERROR_PAGES = {
    b"<!doctype html": HTML,
    b"<html": HTML,
    b"version https://git-lfs.github.com/spec/": "a Git-LFS pointer",
}
HEAD = 512  # bytes that are looked at


def binary(data: bytes) -> tuple[str, str] | None:
    """Return what a file that begins with `data` is, and what to do with it; None if nothing says that it is binary."""
    found = next(((what, fix) for start, what, fix in BINARY if data.startswith(start)), None)
    if found and data.startswith(b"PK") and any(name in data[:HEAD] for name in WORKBOOK):
        return "an Excel workbook", "save the sheet as CSV"
    return found


def error_page(data: bytes) -> str | None:
    """Return what a server has sent instead of a file; None if it is none of ERROR_PAGES."""
    head = data[:HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((name for start, name in ERROR_PAGES.items() if head.startswith(start)), None)
