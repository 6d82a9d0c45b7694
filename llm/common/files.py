"""Atomic writes, strict reads, hashes and locks. JSON and CSV files have the same bytes for the same values."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from llm.common.errors import DATA, NO_ROOM, RESOURCES, RUNNING, USAGE, UserError, collect_errors, raise_first

Json = Any
MAX_PIPE_BYTES = 64 << 20  # of what is not a regular file, and may have no end
DIGITS, UNROUNDED = 6, 17  # significant digits of floats in reports, and of those that are read back as they were
CONFIG_BYTES = 64 << 20  # far above every configuration file of a model
DVC_IGNORES = ("__pycache__/*", "*.pyc", ".DS_Store")  # the entries of .dvcignore that can match inside an output


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`. If the block succeeds, sync the file and rename it to `path`.

    Raises UserError (RESOURCES) if the disk is full, and OSError that names `path`. After any error the old file is
    unchanged.
    """
    path = Path(path)
    temporary, mode = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # the block may have replaced the file by another one
        temporary.replace(path)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise _about(path, temporary, error) from None
        written, free = temporary.stat().st_size, shutil.disk_usage(path.parent).free
        what = f"{error.strerror} after {written:,} bytes; the disk has {free:,} bytes free"
        raise UserError(str(path), what, "free some space and run it again", RESOURCES) from None
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path | str) -> None:
    """Raise what `atomic_path` would, before the work whose result is written there."""
    _temporary(Path(path))[0].unlink()


def _temporary(path: Path) -> tuple[Path, int]:
    """Create a file beside `path`; returns it and its mode, to which the system has applied the umask."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise _about(path, temporary, error) from None
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    return temporary, mode


def _about(path: Path, temporary: Path, error: OSError) -> OSError:
    """The error with `path` as its subject, if that is the temporary file, which nobody has named."""
    same = str(error.filename) == str(temporary)
    return OSError(error.errno, error.strerror, str(path)) if same else error


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8, without changing its line ends."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Json, digits: int = DIGITS) -> None:
    """Write JSON in UTF-8 with an indent of two spaces, floats of `digits` significant digits and a final newline.

    Raises UserError for NaN and infinity.
    """
    text = json.dumps(round_floats(value, str(path), digits), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_csv(path: Path | str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write CSV with LF line ends, floats of 6 significant digits, and None as an empty field."""
    table = [header, *([round_floats(value, str(path)) for value in row] for row in rows)]
    write_text(path, "".join(",".join(map(_csv_field, row)) + "\n" for row in table))


def csv_rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV report, by its header."""
    csv.field_size_limit(2**31 - 1)  # a message may be longer than csv's 131,072 characters
    return list(csv.DictReader(io.StringIO(text)))


def _csv_field(value: Any) -> str:
    """Quote as `csv.writer` does, and also quote a single carriage return, which readers take for a line end."""
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def round_floats(value: Json, where: str = "value", digits: int = DIGITS) -> Json:
    """Round every float in `value` to `digits` significant digits. Raises UserError for NaN and infinity."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(where, f"{value} is not a finite number", "find the step that produced it", DATA)
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: round_floats(item, f"{where}: {key}", digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [round_floats(item, where, digits) for item in value]
    return value


def read_text(path: Path | str) -> str:
    """Read UTF-8 text. Drop a byte-order mark and replace CRLF by LF, with one message on stderr for each file.

    Raises UserError for a missing or empty file, and for a byte that is not UTF-8.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise UserError(f"{path}:{line}", what, "save the file as UTF-8", DATA) from None
    if not text.removeprefix("\ufeff").strip():
        raise UserError(str(path), f"the file is empty ({len(data)} bytes)", "add text to it", DATA)
    changes = ["ignored a byte-order mark"] * text.startswith("\ufeff") + ["read CRLF as LF"] * ("\r\n" in text)
    if changes:
        _print_once(f"{path}: {', '.join(changes)}")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


@cache
def _print_once(text: str) -> None:
    print(text, file=sys.stderr)


def read_bytes(path: Path | str) -> bytes:
    """Read a file. Raises UserError if it is missing or a folder, and for a pipe or a device that has no end."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read()
            data = file.read(MAX_PIPE_BYTES + 1)
    except FileNotFoundError:
        raise _missing(Path(path)) from None
    except IsADirectoryError:
        raise UserError(str(path), "is a folder, not a file", "name the file in it", DATA) from None
    if len(data) > MAX_PIPE_BYTES:
        what = f"is a pipe or a device, and gave more than {MAX_PIPE_BYTES:,} bytes"
        raise UserError(str(path), what, "name a regular file", DATA)
    return data


def _missing(path: Path) -> UserError:
    top, *below = path.parts or [""]
    fix = "run `llm repro`, or correct the path" if top in ("data", "models", "reports") else "correct the path"
    if top == "models" and len(below) > 1 and not path.parent.exists():
        return UserError(str(path.parent), "no model here", fix, DATA)
    return UserError(str(path), "no such file", fix, DATA)


def _without_waiting(path: str, flags: int) -> int:
    """Open a file; do not wait for somebody to write into a named pipe, but then for what is written."""
    handle = os.open(path, flags | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    return handle


def read_json(path: Path | str, most: int | None = None) -> Json:
    """Read a file of strict JSON, refused if it has more than `most` bytes. Raises UserError as `parse_json` does."""
    if most is not None and Path(path).is_file() and (size := Path(path).stat().st_size) > most:
        raise UserError(str(path), f"has {size:,} bytes, more than {most:,}", "download it again", DATA)
    return parse_json(read_text(path), path)


class DuplicateKeyError(ValueError):
    """A key is used twice in one object, so that one of its values would be lost."""


def unique_keys(items: list[tuple[str, Json]]) -> dict[str, Json]:
    """The object of these keys and values, for `json.loads`. Raises DuplicateKeyError."""
    value: dict[str, Json] = {}
    for key, item in items:
        if key in value:
            raise DuplicateKeyError(repr(key))
        value[key] = item
    return value


def parse_json(text: str, path: Path | str, line: int | None = None) -> Json:
    """Parse strict JSON: the text of the file `path`, or what begins at its line `line`.

    Raises UserError for bad syntax, duplicate keys, NaN, infinity and floats that overflow.
    """
    where = f"{path}:{line}" if line else str(path)

    def number(text: str) -> float:
        if not math.isfinite(float(text)):  # Python also parses NaN and Infinity
            raise UserError(where, f"{text} is not a finite number", "write a number or null", DATA)
        return float(text)

    try:
        return json.loads(text, object_pairs_hook=unique_keys, parse_constant=number, parse_float=number)
    except json.JSONDecodeError as error:
        what = f"not JSON: {error.msg} (column {error.colno})"
        raise UserError(f"{path}:{(line or 1) + error.lineno - 1}", what, "correct the file", DATA) from None
    except DuplicateKeyError as error:
        raise UserError(where, f"key {error} is used twice in one object", "keep one of them", DATA) from None
    except ValueError as error:  # an integer with thousands of digits
        raise UserError(where, f"not readable JSON: {error}", "correct the file", DATA) from None
    except RecursionError:
        raise UserError(where, "not readable JSON: nested too deeply", "correct the file", DATA) from None


def parse_json_lines(text: str, path: Path | str) -> list[tuple[int, Json]]:
    """Parse JSON Lines, the text of the file `path`: number and value of each line that is not blank.

    Raises UserError that lists the damaged lines.
    """
    found: list[tuple[int, Json]] = []
    problems: list[UserError] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            with collect_errors(problems):
                found.append((number, parse_json(line, path, number)))
    raise_first(problems, str(path))
    return found


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    return _digest(path, "sha256")


def dvc_md5(path: Path | str) -> str:
    """Return the MD5 that dvc.lock records for a file, or for a folder (the MD5 of its file list, plus `.dir`)."""
    path = Path(path)
    if not path.is_dir():
        return _digest(path, "md5")
    listing = json.dumps(dvc_listing(path), sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def dvc_listing(path: Path) -> list[dict[str, str]]:
    """The files of a folder with their MD5, as DVC lists them."""
    inside = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    names = sorted(name.as_posix() for name in inside if not any(map(name.match, DVC_IGNORES)))
    return [{"md5": _digest(path / name, "md5"), "relpath": name} for name in names]


def _digest(path: Path | str, algorithm: str) -> str:
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UserError(str(path), "is not a regular file", "put a regular file there", DATA)
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


@contextmanager
def lock(path: Path | str) -> Iterator[None]:
    """Hold the lock file `path`. Raises UserError (RUNNING) if another process holds it, with its pid and start time.

    The kernel releases the lock when the process ends. The file stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(str(path), f"held by {holder}", "wait for it, or end it", RUNNING) from None
        file.truncate(0)
        file.write(f"pid {os.getpid()}, started {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
        file.flush()
        yield


def project_root() -> Path:
    """Return the working directory. Raises UserError if it has no params.yaml."""
    root = Path.cwd()
    if not (root / "params.yaml").is_file():
        raise UserError(str(root), "no params.yaml here", "change to the project folder", USAGE)
    return root
