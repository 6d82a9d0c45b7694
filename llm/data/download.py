"""Pinned sources: files from the web, from the first of several addresses that has them, or from the disk.

What was fetched once is kept by content in a folder of blobs, `<sha256>` each, and never fetched again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from llm.common.errors import DATA, NO_ROOM, RESOURCES, SERVICE, USAGE, UserError
from llm.common.files import lock, sha256
from llm.common.params import Problem, positive
from llm.data import web
from llm.data.web import PATIENCE, Declared, Failure, Patience

WEB = "data/web"  # the `source` that means: from the URLs
ZIP_RATIO = 100  # an unpinned member may be this many times larger than its archive
Record = dict[str, Any]
Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all where known


def silent(_name: str, _done: int, _total: int | None) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True)
class WebFile:
    """One pinned file of the web."""

    name: str  # the name it gets in data/raw/<item>/
    url: str
    mirrors: tuple[str, ...] = ()  # tried in order after `url`
    sha256: str | None = None  # of the content (of the member, for an archive); None until `python -m llm pin`
    size: int | None = None  # bytes of the content
    member: str | None = None  # the one member to take out of a zip archive

    def problems(self) -> Iterator[Problem]:
        """Yield what contradicts itself in the parameters."""
        if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,199}", self.name):
            yield "name", f"{self.name!r} is no plain file name", "write a name without folders or a leading dot"
        for field, url in [("url", self.url), *((f"mirrors[{i}]", url) for i, url in enumerate(self.mirrors))]:
            if not _is_plain_url(url):
                yield field, f"{url!r} is no http(s) URL", "write https://host/path, without a user or password"
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            fix = "write null and run `python -m llm pin`"
            yield "sha256", f"{self.sha256!r} is not 64 lowercase hex digits", fix
        if self.member is not None and not self.member.strip("/"):
            yield "member", f"{self.member!r} names no file", "write the member's full name in the archive"
        yield from positive(self, "size")


@dataclass(frozen=True)
class Source:
    """Where the files of one item come from."""

    source: str  # `data/web`: from `files`; any other value: a local file or folder, taken as it is
    files: tuple[WebFile, ...] = ()

    def problems(self) -> Iterator[Problem]:
        """Yield what contradicts itself in the parameters."""
        if not self.source.strip():
            yield "source", "is empty", f"write {WEB}, or the path of a file or folder"
        elif self.source != WEB and os.path.normpath(self.source) == WEB:
            yield "source", f"{self.source!r} is not spelled {WEB!r}", f"write {WEB}"
        elif self.source == WEB and not self.files:
            yield "files", f"is empty, although source is {WEB}", "list name and url of each file"
        elif self.source != WEB and self.files:
            yield "files", f"is given, although source is the local path {self.source!r}", f"remove it, or write {WEB}"
        names = [file.name.casefold() for file in self.files]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield "files", f"the name {name!r} stands there {names.count(name)} times", "give each file its own name"


@dataclass(frozen=True)
class Job:
    """What stays the same while the files of one item are fetched."""

    item: str
    blobs: Path
    mirror: str | None
    progress: Progress
    patience: Patience


def fetch(
    item: str,
    source: Source,
    folder: Path,
    blobs: Path,
    mirror: str | None = None,
    progress: Progress = silent,
    patience: Patience = PATIENCE,
) -> list[Record]:
    """Fill the empty `folder` with the files of `download.<item>`; return name, sha256 and bytes of each.

    `mirror` (LLM_MIRROR) is a folder or a base URL that is tried before the pinned URLs. Raises UserError: SERVICE
    if no address answers, DATA for content unlike its pin, USAGE for a file that is not pinned, RESOURCES for a full
    disk, RUNNING while another process fetches the same file.
    """
    job = Job(item, blobs, mirror, progress, patience)
    with _disk_errors(f"download.{item}.source"):
        if source.source != WEB:
            return [_copy(file, folder / file.name) for file in _local_files(item, Path(source.source))]
        for index, file in enumerate(source.files):
            if file.sha256 is None:
                where = f"download.{item}.files[{index}].sha256"
                raise UserError(where, f"{file.name} is not pinned", "run `python -m llm pin`", USAGE)
        return [_fetch_file(job, file, folder / file.name) for file in source.files]


def pin(
    item: str,
    source: Source,
    blobs: Path,
    mirror: str | None = None,
    progress: Progress = silent,
    patience: Patience = PATIENCE,
) -> dict[str, Any]:
    """Fetch the files that have no sha256 yet; return what to write below `download.<item>` ({}: nothing to pin).

    Raises UserError as `fetch`, and (DATA) where the content is not what the server itself declares.
    """
    if all(file.sha256 is not None for file in source.files):
        return {}
    job = Job(item, blobs, mirror, progress, patience)
    with _disk_errors(f"download.{item}.source"):
        return {"files": [_as_yaml(file if file.sha256 else _pinned(job, file)) for file in source.files]}


def _pinned(job: Job, file: WebFile) -> WebFile:
    blob = _obtain(job, file)
    return replace(file, sha256=blob.name, size=blob.stat().st_size)


def _as_yaml(file: WebFile) -> dict[str, Any]:
    plain = asdict(file) | {"mirrors": list(file.mirrors)}
    return {key: value for key, value in plain.items() if value not in (None, [])}


def _local_files(item: str, source: Path) -> list[Path]:
    where = f"download.{item}.source"
    if not source.exists():
        raise UserError(where, f"{source}: no such file or folder", "correct the path", USAGE)
    files = [source]
    if source.is_dir():
        files = sorted(file for file in source.iterdir() if not file.name.startswith("."))
    if not files:
        raise UserError(where, f"{source} holds no files", "put a file into it", DATA)
    for file in files:
        if not file.is_file():
            what = "a folder" if file.is_dir() else "no regular file"
            raise UserError(where, f"{file} is {what}", "leave plain files only in the source folder", DATA)
        if not file.stat().st_size:
            raise UserError(where, f"{file} is empty", "put some content into it, or remove it", DATA)
    return files


def _copy(file: Path, target: Path) -> Record:
    shutil.copyfile(file, target)
    return {"name": target.name, "sha256": sha256(target), "bytes": target.stat().st_size}


def _fetch_file(job: Job, file: WebFile, target: Path) -> Record:
    blob = job.blobs / str(file.sha256)
    if not _intact(blob, file):
        blob = _obtain(job, file)
    try:
        target.hardlink_to(blob)
    except OSError:  # another file system, or one without links
        shutil.copyfile(blob, target)
    return {"name": file.name, "sha256": file.sha256, "bytes": target.stat().st_size}


def _intact(blob: Path, file: WebFile) -> bool:
    return blob.is_file() and file.size in (None, blob.stat().st_size) and sha256(blob) == file.sha256


def _obtain(job: Job, file: WebFile) -> Path:
    """Bring the file's content into the blobs, from the first address that has it."""
    own = _in_mirror(job, file)
    key = file.sha256 or _key(file.url)
    failures: list[tuple[str | Path, Failure]] = []
    with lock(job.blobs / f"{key}.lock"):
        for address in [*own, file.url, *file.mirrors]:
            # A part belongs to one address: another one may send other bytes for the same content.
            part = job.blobs / f"{key[:32]}-{_key(str(address))[:32]}.part"
            try:
                return _keep(file, part, _bring(job, file, address, part))
            except Failure as failure:
                if failure.code == DATA:
                    web.forget(part)
                    if address in own or file.sha256 is None:  # no silent second choice
                        what = f"{file.name} from {address}: {failure}"
                        fix = "replace the file there" if address in own else "correct the url, or try again later"
                        raise UserError(f"download.{job.item}", what, fix, DATA) from None
                failures.append((address, failure))
    code = DATA if any(failure.code == DATA for _, failure in failures) else SERVICE
    what = "; ".join(f"{address}: {failure}" for address, failure in failures)
    raise UserError(f"download.{job.item}", f"{file.name} cannot be had: {what}", _by_hand(job, file), code)


def _bring(job: Job, file: WebFile, address: str | Path, part: Path) -> Declared:
    if isinstance(address, Path):
        shutil.copyfile(address, part)
        return Declared()
    size = None if file.member else file.size  # the pinned size is the member's
    return web.bring(address, part, size, partial(job.progress, file.name), job.patience)


def _in_mirror(job: Job, file: WebFile) -> list[str | Path]:
    """Where the user's mirror may hold the file: URLs to try, or paths that exist."""
    if not job.mirror:
        return []
    last = _last_part(file.url)
    names = list(dict.fromkeys([f"{job.item}/{last}", f"{job.item}/{file.name}", last, file.name]))
    if _is_plain_url(job.mirror):
        return [f"{job.mirror.rstrip('/')}/{quote(name)}" for name in names]
    if not Path(job.mirror).is_dir():
        fix = "set it to the folder or URL that holds the files, or unset it"
        raise UserError("LLM_MIRROR", f"{job.mirror!r} is neither a folder nor an http(s) URL", fix, USAGE)
    return [path for name in names if (path := Path(job.mirror, name)).is_file()]


def _by_hand(job: Job, file: WebFile) -> str:
    content = f"sha256 of its member {file.member}:" if file.member else "sha256"
    pinned = f" ({content} {file.sha256})" if file.sha256 else ""
    return f"put {_last_part(file.url)}{pinned} into {job.mirror or 'a folder and set LLM_MIRROR to it'}"


def _keep(file: WebFile, raw: Path, declared: Declared) -> Path:
    """Check what came against the pin (or what the server declared) and keep the content as a blob.

    `raw` is gone afterwards. Raises Failure naming both hashes or sizes.
    """
    digest, content = sha256(raw), raw
    if file.sha256 is None:
        _compare(raw, "the sha256 that the server declares", declared.sha256, digest)
        _compare(raw, "the size that the server declares", declared.size, raw.stat().st_size)
    if file.member is not None and digest != file.sha256:  # a mirror may hold the member itself
        content = _take_member(raw, file.member, file.size)
        digest = sha256(content)
    size = content.stat().st_size
    if file.sha256 is None and (size == 0 or web.disguise_of(content)):
        raise web.wrong(content, f"has {size} bytes")
    _compare(content, "the pinned sha256", file.sha256, digest)
    _compare(content, "the pinned size", file.size, size)
    content.replace(raw.with_name(digest))
    web.forget(raw)
    return raw.with_name(digest)


def _compare(content: Path, what: str, expected: str | int | None, found: str | int) -> None:
    if expected not in (None, found):
        raise web.wrong(content, f"{what} is {expected}, but the content has {found}")


def _take_member(archive: Path, member: str, size: int | None) -> Path:
    """Write the one named member beside the archive; no other member is opened, no name in it becomes a path."""
    target = archive.with_suffix(".member")
    try:
        with zipfile.ZipFile(archive) as bundle:
            found = [info for info in bundle.infolist() if info.filename == member]
            if len(found) != 1:
                raise Failure(f"{len(found)} members of the archive are named {member!r}", DATA)
            limit = size or ZIP_RATIO * archive.stat().st_size
            if found[0].flag_bits & 1 or stat.S_ISLNK(found[0].external_attr >> 16):
                raise Failure(f"the member {member!r} is encrypted, or a link", DATA)
            if found[0].file_size > limit:
                raise Failure(f"the member {member!r} has {found[0].file_size} bytes, more than {limit}", DATA)
            with bundle.open(found[0]) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out)  # zipfile never gives more than file_size
    except (Failure, OSError):
        raise
    except Exception as error:  # zipfile lets many kinds through: BadZipFile, zlib.error, struct.error, ...
        raise web.wrong(archive, f"not a sound zip archive: {error}") from None
    return target


@contextmanager
def _disk_errors(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise UserError(where, f"no room on the disk: {error}", "free some space", RESOURCES) from None
        raise UserError(where, f"cannot be read or written: {error}", "correct path or permissions", DATA) from None


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _last_part(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name


def _is_plain_url(url: str) -> bool:
    with suppress(ValueError):  # `http://[`
        parts = urlsplit(url)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and "@" not in parts.netloc
            and not re.search(r"\s", url)
        )
    return False
