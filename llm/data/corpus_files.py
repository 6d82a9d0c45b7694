"""The files of a corpus as text: which files a folder has, decompressed, decoded and taken out of JSONL and Parquet.

Every reader yields parts, so that memory does not grow with the file. A line of JSONL and the text column of a Parquet
row group are held whole.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path, PurePath
from typing import IO, Any, Literal

from llm.common.errors import DATA, UserError, listed, raise_all
from llm.common.params import Problem
from llm.data import signatures
from llm.data.corpus_records import bad_records, is_text, parse_record, text_of

Format = Literal["text", "jsonl", "parquet"]
FORMATS: dict[str, Format] = {".txt": "text", ".text": "text", ".md": "text", ".markdown": "text"}
FORMATS |= {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
COMPRESSED = (".gz", ".zst")
TEXT_FIELDS = ("text", "content", "document", "body", "article", "story")  # that are looked for, in this order
SAID = 3  # files that a message names
CHUNK = 1 << 20  # bytes read at once
BINARY_AT = 8000  # a NUL character among the first so many: the file is not text (as git decides)
ROWS = 1000  # of a Parquet file, decoded at once


@dataclass(frozen=True)
class DocumentsConfig:
    """Section `tokenize.documents` of params.yaml: how the files of the corpus are read."""

    files: str | None  # glob pattern below the folder; None: all files of a known kind
    format: Format | None  # None: by the end of each file's name
    text_field: str | None  # key of the text in JSONL and Parquet; None: the first of TEXT_FIELDS
    encoding: str  # of text and JSONL

    def problems(self) -> Iterator[Problem]:
        try:
            "".encode(self.encoding)
        except (LookupError, UnicodeError, ValueError):
            yield "encoding", f"{self.encoding!r} is not a text encoding", "write utf-8, or another name of Python's"
        if self.files is not None and (what := _pattern_problem(self.files)):
            yield "files", f"{self.files!r} {what}", 'write a pattern such as "**/*.txt"'
        if self.text_field == "":
            yield "text_field", "is empty", "write the name of the key, or null"


def _pattern_problem(pattern: str) -> str:
    if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
        return "is not a pattern below the folder"
    try:
        next(Path("/nonexistent").glob(pattern), None)
    except (ValueError, NotImplementedError) as error:
        return f"is not a pattern: {error}"
    return ""


def kind_of(path: Path, given: Format | None) -> Format | None:
    """Return the format of a file, by its name if none is given; None for an unknown one."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    inner = suffixes[:-1] if suffixes and suffixes[-1] in COMPRESSED else suffixes
    found = given or (FORMATS.get(inner[-1]) if inner else None)
    return None if found == "parquet" and inner != suffixes else found


@dataclass
class CorpusFiles:
    """The files of a folder and its sub-folders, sorted by path, and what reading them has met so far.

    Files and folders whose names start with a dot are left out. Raises UserError if no file can be read.
    """

    folder: Path
    config: DocumentsConfig
    say: Callable[[str], None] = lambda _text: None
    progress: Callable[[int, int], None] = lambda _done, _total: None  # bytes read, bytes of all files
    paths: list[Path] = field(init=False)
    skipped: list[Path] = field(init=False)  # files of unknown kinds
    guessed: set[str] = field(default_factory=set, init=False)  # names of text fields
    blank: int = field(default=0, init=False)  # records of JSONL and Parquet without a visible character
    _said: dict[str, list[Path]] = field(default_factory=dict, init=False)  # the first files of a message

    def __post_init__(self) -> None:
        if self.folder.is_file():
            raise UserError(str(self.folder), "is a file, not a folder of files", "name its folder", DATA)
        pattern = self.config.files or "**/*"
        below = ((path, path.relative_to(self.folder).parts) for path in self.folder.glob(pattern) if path.is_file())
        found = [path for path, parts in below if not any(part.startswith(".") for part in parts)]
        kinds = {path: kind_of(path, self.config.format) for path in sorted(found)}
        self.paths = [path for path, kind in kinds.items() if kind]
        self.skipped = [path for path, kind in kinds.items() if not kind]
        if not self.paths and self.skipped:
            what = f"contains only files of unknown kinds, such as {self.skipped[0].name}; known: "
            fix = "rename them, or set tokenize.documents.format"
            raise UserError(str(self.folder), what + ", ".join(FORMATS), fix, DATA)
        if not self.paths:
            matching = f" that matches {self.config.files!r}" if self.config.files else ""
            fix = "correct params.yaml: " + ("tokenize.documents.files" if self.config.files else "download.corpus")
            raise UserError(str(self.folder), f"contains no text file{matching}", fix, DATA)
        if self.skipped:
            self.say(f"skipped files of unknown kinds: {listed([path.name for path in self.skipped], SAID)}")
        sizes = [path.stat().st_size for path in self.paths]
        self._starts = dict(zip(self.paths, accumulate(sizes, initial=0), strict=False))
        self._total = sum(sizes)

    def texts(self, path: Path) -> Iterator[str] | None:
        """Return the parts of a text file, or None for a file of records."""
        if kind_of(path, self.config.format) != "text":
            return None
        return self._decoded(path)

    def records(self, path: Path) -> Iterator[str]:
        """Yield the texts of a JSONL or Parquet file. Raises UserError with the numbers of the bad ones at the end."""
        parquet = kind_of(path, self.config.format) == "parquet"
        rows = self._rows_of_parquet(path) if parquet else self._rows_of_jsonl(path)
        bad: dict[str, list[int]] = {}
        for number, text, problem in rows:
            if problem:
                bad.setdefault(problem, []).append(number)
            elif text.strip():
                yield text
            else:
                self.blank += 1
        raise_all([bad_records(path, "rows" if parquet else "lines", what, found) for what, found in bad.items()])

    def _rows_of_jsonl(self, path: Path) -> Iterator[tuple[int, str, str]]:
        """Yield number, text and problem of each line with an object."""
        name = self.config.text_field
        for number, line in enumerate(_lines(self._decoded(path)), start=1):
            if not line.strip():
                continue
            record, problem = parse_record(line)
            if problem:
                yield number, "", problem
                continue
            if name is None:
                name = self._guess(path, {key: isinstance(value, str) for key, value in record.items()})
            yield number, *text_of(record.get(name), name)

    def _rows_of_parquet(self, path: Path) -> Iterator[tuple[int, str, str]]:
        """Yield number, text and problem of each row."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
                columns = {column.name: is_text(column.type) for column in file.schema_arrow}
                name = self.config.text_field or self._guess(path, columns)
                if not columns.get(name):
                    kinds = ", ".join(f"{column.name} ({column.type})" for column in file.schema_arrow)
                    what = f"has no column {name!r} of text; its columns are {kinds}"
                    fix = f"{'correct' if self.config.text_field else 'set'} tokenize.documents.text_field"
                    raise UserError(str(path), what, fix, DATA)
                number, size = 0, path.stat().st_size / max(1, file.metadata.num_rows)
                for batch in file.iter_batches(ROWS, columns=[name], use_threads=False):
                    for value in batch.column(0).to_pylist():
                        number += 1
                        yield number, *text_of(value, name)
                    self._read(path, int(size * number))
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, "Parquet", error) from None

    def _guess(self, path: Path, fields: dict[str, bool]) -> str:
        """Return the first of TEXT_FIELDS that is a text in the file. Raises UserError if there is none."""
        found = [name for name in TEXT_FIELDS if name in fields]
        if not found:
            what = f"no field is one of {', '.join(TEXT_FIELDS)}; the fields are {', '.join(fields) or 'none'}"
            raise UserError(str(path), what, "set tokenize.documents.text_field", DATA)
        name = next((name for name in found if fields[name]), found[0])  # its records without text are reported
        self.guessed.add(name)
        self.note(f"read the field {name!r}", path)
        return name

    def _decoded(self, path: Path) -> Iterator[str]:
        """Yield the text of a file, without a byte-order mark, with LF line ends. Raises UserError."""
        encoding = self.config.encoding
        decoder = codecs.getincrementaldecoder(encoding)()
        done, line, held, first, blank, returns = 0, 1, "", True, True, 0
        with path.open("rb") as raw:
            self._refuse_other_kinds(path, raw)
            for data in _chunks(path, raw):
                try:
                    text = held + decoder.decode(data, not data)
                except UnicodeError as error:
                    raise _undecodable(path, encoding, error, done + len(data), line + held.count("\n")) from None
                done += len(data)
                self._read(path, raw.tell())
                if first and text:
                    text, first = self._without_mark(path, text), False
                held = "\r" if data and text.endswith("\r") else ""
                text = text.removesuffix(held) if held else text
                if "\r\n" in text:
                    self.note("read CRLF as LF", path)
                    text = text.replace("\r\n", "\n")
                returns += text.count("\r")
                line += text.count("\n")
                blank = blank and not text.strip()
                if text:
                    yield text
        if returns and line == 1:
            self.note("has CR for line ends, which separate no documents: save it with LF", path)
        if blank:
            raise UserError(str(path), f"the file is empty ({done} bytes)", "add text to it, or remove it", DATA)

    def _without_mark(self, path: Path, text: str) -> str:
        if text.startswith("\ufeff"):
            self.note("ignored a byte-order mark", path)
        at = text.find("\0", 0, BINARY_AT)
        if at >= 0:
            what = f"is not text: character {at} is NUL"
            fix = "remove the file, or set tokenize.documents.encoding (UTF-16 has NUL bytes)"
            raise UserError(str(path), what, fix, DATA)
        return text.removeprefix("\ufeff")

    def _refuse_other_kinds(self, path: Path, raw: IO[bytes]) -> None:
        """Raise UserError if a file that should be text, perhaps compressed, begins as one of another kind does."""
        head = raw.read(signatures.HEAD)
        raw.seek(0)
        found, page = signatures.binary(head), signatures.error_page(head)
        if found and path.suffix.lower() not in COMPRESSED:
            raise UserError(str(path), f"is {found[0]}, not text", f"{found[1]}, or remove it", DATA)
        if page == signatures.HTML:
            self.note(f"begins as {page} does; its tags are read as text", path)
        elif page:
            raise UserError(str(path), f"is {page}, not the text", "download the file itself, or remove it", DATA)

    def _read(self, path: Path, done: int) -> None:
        self.progress(self._starts[path] + done, self._total)

    def note(self, text: str, path: Path) -> None:
        """Say it once for a file, and for the first files only."""
        said = self._said.setdefault(text, [])
        if path not in said and len(said) <= SAID:
            said.append(path)
            self.say(f"{path}: {text}" if len(said) <= SAID else f"more files: {text}")


def _chunks(path: Path, raw: IO[bytes]) -> Iterator[bytes]:
    """Yield the decompressed content of a file, and at the end an empty chunk. Raises UserError for damaged data."""
    suffix = path.suffix.lower()
    stream: Any = raw
    try:
        if suffix == ".gz":
            stream = gzip.GzipFile(fileobj=raw)
        elif suffix == ".zst":
            import pyarrow as pa

            stream = pa.CompressedInputStream(raw, "zstd")
        while data := stream.read(CHUNK):
            yield bytes(data)
    except (EOFError, zlib.error, OSError) as error:
        if suffix not in COMPRESSED:
            raise
        raise _damaged(path, {".gz": "gzip", ".zst": "zstd"}[suffix], error) from None
    yield b""


def _undecodable(path: Path, encoding: str, error: UnicodeError, done: int, line: int) -> UserError:
    """The error for bytes that are not in the encoding, found when `done` bytes were read and `line` had begun."""
    where, what = str(path), str(error)
    if isinstance(error, UnicodeDecodeError):
        offset = done - len(error.object) + error.start
        where += f":{line + error.object[: error.start].decode(encoding, 'replace').count(chr(10))}"
        what = f"byte 0x{error.object[error.start]:02x} at offset {offset} is not {encoding.upper()}"
    return UserError(where, what, "set tokenize.documents.encoding, or save it as UTF-8", DATA)


def _damaged(path: Path, kind: str, error: Exception) -> UserError:
    return UserError(str(path), f"not valid {kind}: {str(error).splitlines()[0]}", "write the file again", DATA)


def _lines(parts: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a text that comes in parts."""
    pending: list[str] = []
    for part in parts:
        first, *others = part.split("\n")
        pending.append(first)
        for line in others:
            yield "".join(pending)
            pending = [line]
    yield "".join(pending)
