"""Folders in the DVC cache of a project."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from llm.common import files


def cached_folder(root: Path, inside: Mapping[str, str]) -> str:
    """Put a folder with these files, name and text, into DVC's cache; return the md5 that dvc.lock would record."""
    from dvc.repo import Repo
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.transfer import transfer
    from dvc_objects.fs.local import LocalFileSystem

    with tempfile.TemporaryDirectory() as folder, Repo(str(root)) as repo:
        for name, text in inside.items():
            files.write_text(Path(folder, name), text)
        staging, _, found = build(repo.cache.local, folder, LocalFileSystem(), "md5")
        transfer(staging, repo.cache.local, {found.hash_info})
        return str(found.hash_info.value)
