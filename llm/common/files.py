"""Files that are whole or absent: atomic writes, hashes, locks, and JSON and CSV with the same bytes every time."""

from __future__ import annotations

import fcntl
import hashlib
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

from llm.common.errors import DATA, NO_ROOM, RESOURCES, RUNNING, USAGE, UserError

Json = Any
DVC_IGNORES = ("__pycache__/*", "*.pyc", ".DS_Store")  # .dvcignore, as far as it can concern an output


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, sync it and rename it onto `path`.

    Raises UserError (code RESOURCES) where the disk is full; the old `path` is as it was then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL, 0o666)  # of which the system takes off the umask
    mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # what stands there now may be a file of the writer's own
        temporary.replace(path)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        written, free = temporary.stat().st_size, shutil.disk_usage(path.parent).free
        what = f"{error.strerror}: more than the {written:,} bytes written are needed, the disk has {free:,} free"
        raise UserError(str(path), what, "free some space and run it again", RESOURCES) from None
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` as UTF-8 with the line ends as they are."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Json) -> None:
    """Write JSON that is byte-stable: two spaces, UTF-8, a final newline, floats at 6 significant digits.

    A number that is not finite is refused: it is no JSON, and no metric either.
    """
    text = json.dumps(stable(value, str(path)), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_csv(path: Path | str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV that is byte-stable: LF line ends, floats at 6 significant digits, None as an empty field."""
    table = [header, *([stable(value, str(path)) for value in row] for row in rows)]
    write_text(path, "".join(",".join(map(_csv_field, row)) + "\n" for row in table))


def _csv_field(value: Any) -> str:
    """As `csv.writer` would, but quoting a lone carriage return too: readers take that for the end of a line."""
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if set(text) & set(',"\r\n') else text


def stable(value: Json, where: str = "value") -> Json:
    """Round every float inside `value` to 6 significant digits; refuse nan and infinity."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UserError(where, f"{value} is not a finite number", "look for the step that made it", DATA)
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: stable(item, f"{where}: {key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [stable(item, where) for item in value]
    return value


def read_text(path: Path | str) -> str:
    """Read UTF-8 text; a byte-order mark is dropped and CRLF becomes LF, which is said once for each file.

    Raises UserError naming file, line and offset for a byte that is not UTF-8, and for an empty file.
    """
    data = read_bytes(path)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8"
        raise UserError(f"{path}:{line}", what, "save the file as UTF-8", DATA) from None
    if not text.removeprefix("\ufeff").strip():
        raise UserError(str(path), f"the file is empty ({len(data)} bytes)", "put some text into it", DATA)
    found = {"a byte-order mark is left out": text.startswith("\ufeff"), "CRLF is read as LF": "\r\n" in text}
    if any(found.values()):
        _say_once(f"{path}: {', '.join(what for what, there in found.items() if there)}")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


@cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)


def read_bytes(path: Path | str) -> bytes:
    """Read a file; a missing one is a UserError that says so."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        made = Path(path).parts[0] in ("data", "models", "reports")
        fix = "run `dvc repro`, or correct the path" if made else "correct the path"
        raise UserError(str(path), "no such file", fix, DATA) from None
    except IsADirectoryError:
        raise UserError(str(path), "is a folder, not a file", "name the file in it", DATA) from None


def read_json(path: Path | str) -> Json:
    """Read strict JSON: a duplicate key, NaN and what overflows are refused; the line of a syntax error is named."""

    def pairs(items: list[tuple[str, Json]]) -> dict[str, Json]:
        value: dict[str, Json] = {}
        for key, item in items:
            if key in value:
                raise UserError(str(path), f"key {key!r} stands twice in one object", "keep one of them", DATA)
            value[key] = item
        return value

    def number(text: str) -> float:
        if not math.isfinite(float(text)):  # also NaN and Infinity, which Python takes for JSON
            raise UserError(str(path), f"{text} is not a finite number", "write a number or null", DATA)
        return float(text)

    try:
        return json.loads(read_text(path), object_pairs_hook=pairs, parse_constant=number, parse_float=number)
    except json.JSONDecodeError as error:
        what = f"not JSON: {error.msg} (column {error.colno})"
        raise UserError(f"{path}:{error.lineno}", what, "correct the file", DATA) from None
    except ValueError as error:  # an integer of thousands of digits
        raise UserError(str(path), f"not JSON of ours: {error}", "correct the file", DATA) from None
    except RecursionError:
        raise UserError(str(path), "not JSON of ours: nested too deeply", "correct the file", DATA) from None


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, as 64 hex digits."""
    return _digest(path, "sha256")


def dvc_md5(path: Path | str) -> str:
    """The md5 that dvc.lock records for a file, or for a folder (the md5 of its sorted list, plus `.dir`)."""
    path = Path(path)
    if not path.is_dir():
        return _digest(path, "md5")
    inside = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    names = sorted(name.as_posix() for name in inside if not any(map(name.match, DVC_IGNORES)))
    listing = [{"md5": _digest(path / name, "md5"), "relpath": name} for name in names]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _digest(path: Path | str, algorithm: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def publish(built: Path, final: Path) -> None:
    """Move a finished file or folder onto `final`; where a folder is involved, the old one is moved aside first."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(final) or not (final.is_dir() or built.is_dir()):
        built.replace(final)
        return
    aside = built.with_name(built.name + ".replaced")
    _remove(aside)
    final.replace(aside)
    try:
        built.replace(final)
    except BaseException:
        aside.replace(final)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    """Remove a file, a folder, or a link to either (but not what it points to), if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def lock(path: Path | str) -> Iterator[None]:
    """Hold the lock file; a second process gets a UserError with the pid and start time of the first.

    The kernel drops the lock with the process, however it ends; the file stays and does no harm.
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
    """The folder that holds params.yaml and dvc.yaml: the working directory of every stage and command."""
    root = Path.cwd()
    if not (root / "params.yaml").is_file():
        raise UserError(str(root), "no params.yaml here", "change to the project's folder", USAGE)
    return root
