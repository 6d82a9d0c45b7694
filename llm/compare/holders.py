"""Who still holds an artifact: the disk, DVC's cache, its remotes, or git."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.common import dvc_cache, files, git_here
from llm.compare.history import Artifact

if TYPE_CHECKING:
    from dvc.repo import Repo

DIR = ".dir"  # ends the md5 of a folder, whose object is the list of its files

TRIED = 5  # commits, of which the first normally has it


@dataclass(frozen=True)
class Holders:
    """What holds the bytes of an artifact."""

    disk: str | None  # md5 of what is at its path now; None: nothing
    cache: bool  # whole
    damaged: list[str] = field(default_factory=list)  # objects in the cache whose content is not what their name says
    remotes: dict[str, bool | str] = field(default_factory=dict)  # by name; a text: why it could not be asked
    default_remote: str | None = None
    commit: str | None = None  # of git, which has the file itself

    @property
    def remote(self) -> str | None:
        """A remote that holds it, the default one first."""
        held = [name for name, holds in self.remotes.items() if holds is True]
        return self.default_remote if self.default_remote in held else next(iter(held), None)


def look(repo: Repo, artifact: Artifact, commits: Sequence[str]) -> Holders:
    """Ask all of them; `commits` are those whose files may be it."""
    path = Path(artifact.path)
    damaged, whole = in_cache(repo.cache.local, artifact.md5)
    core: dict[str, Any] = repo.config["core"]
    return Holders(
        disk=files.dvc_md5(path) if path.exists() else None,
        cache=whole,
        damaged=[str(path) for path in damaged],
        remotes={name: _ask(repo, name, artifact.md5) for name in repo.config["remote"]},
        default_remote=core.get("remote"),
        commit=next((commit for commit in commits[:TRIED] if in_git(commit, artifact.path) == artifact.md5), None),
    )


def in_cache(odb: Any, md5: str) -> tuple[list[Path], bool]:
    """The objects of an artifact in the cache that are damaged, and whether all of them are there and whole."""
    top = Path(odb.oid_to_path(md5))
    if _is_damaged(top):
        return [top], False
    paths = [Path(odb.oid_to_path(name)) for name in objects(odb, md5) or ()]
    damaged = [path for path in paths[1:] if _is_damaged(path)]
    return damaged, bool(paths) and not damaged and all(path.is_file() for path in paths)


def holds(odb: Any, md5: str) -> bool:
    """Whether the cache or a remote has all objects of an artifact."""
    names = objects(odb, md5)
    return names is not None and set(odb.oids_exist(names)) == set(names)


def objects(odb: Any, md5: str) -> list[str] | None:
    """The names of all objects of an artifact, the list of a folder first; None if the list is not there or damaged."""
    if not md5.endswith(DIR):
        return [md5]
    listing = dvc_cache.folder(odb, md5)
    return None if listing is None else [md5, *dict.fromkeys(listing.values())]


def in_git(commit: str, path: str) -> str | None:
    """The md5, as DVC computes it, of a file or a folder in a commit; None if it is not there."""
    listed = git_here.text("ls-tree", "-r", "-z", "--name-only", commit, "--", path) or ""
    names = [name for name in listed.split("\0") if name]
    if names == [path]:
        return _md5(_blob(commit, path))
    inside = {Path(name).relative_to(path): name for name in names}
    kept = sorted(name.as_posix() for name in inside if not any(map(name.match, files.DVC_IGNORES)))
    if not kept:
        return None
    listing = [{"md5": _md5(_blob(commit, f"{path}/{name}")), "relpath": name} for name in kept]
    return _md5(json.dumps(listing, sort_keys=True).encode()) + DIR


def _blob(commit: str, path: str) -> bytes:
    return git_here.output("show", f"{commit}:./{path}") or b""


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _is_damaged(path: Path) -> bool:
    """Whether an object in the cache is not what its name says. DVC trusts what it has made read-only."""
    return path.is_file() and files.dvc_md5(path) != (path.parent.name + path.name).removesuffix(DIR)


def _ask(repo: Repo, remote: str, md5: str) -> bool | str:
    """Whether a remote holds all objects; a text if it cannot be asked, as without a network."""
    try:
        return holds(repo.cloud.get_remote_odb(remote), md5)
    except Exception as error:  # of the client of any cloud
        return " ".join(str(error).split())[:60] or type(error).__name__
