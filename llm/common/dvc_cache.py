"""What an output folder holds, by the md5 that dvc.lock has of it: DVC's cache has the list of its files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any


def folder(odb: Any, md5: str) -> dict[str, str] | None:
    """The files of a folder with their md5; None if `odb`, the cache or a remote, has no whole list of them."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree
    from dvc_objects.errors import ObjectFormatError

    try:
        listed = Tree.load(odb, HashInfo("md5", md5)).as_list()
    except (FileNotFoundError, ObjectFormatError):
        return None
    return {str(entry["relpath"]): str(entry["md5"]) for entry in listed}


@lru_cache(maxsize=1000)
def tokenizer(root: Path, md5: str) -> str | None:
    """What is the same for model folders with the same tokenizer: the md5 of its files; None if it is not known."""
    odb = _cache(root)
    files = (folder(odb, md5) if odb else None) or {}
    return files.get("tokenizer.json") or " ".join(filter(None, map(files.get, ("vocab.json", "merges.txt")))) or None


@lru_cache(maxsize=8)
def _cache(root: Path) -> Any | None:
    """DVC's cache of the project in `root`; None if DVC cannot open it."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return repo.cache.local
    except (DvcException, OSError):
        return None
