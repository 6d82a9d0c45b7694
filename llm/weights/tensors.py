"""Tensors on disk: safetensors, which cannot run code."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm.common.errors import DATA, RESOURCES, UserError
from llm.common.files import atomic_path

LFS_POINTER = b"version https://git-lfs"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # a full disk, which it does not report as an OSError
            needed, free = sum(t.nbytes for t in tensors.values()), shutil.disk_usage(path.parent).free
            what = f"cannot be written: {error}: {needed:,} bytes are needed, the disk has {free:,} free"
            raise UserError(str(path), what, "free some disk space", RESOURCES) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped rather than copied; a change of theirs does not reach the file."""
    if not path.is_file():
        pickles = sorted(file.name for file in path.parent.glob("*.bin"))
        what = f"no such file, only {', '.join(pickles)}, which can run code" if pickles else "no such file"
        raise UserError(str(path), what, "name a folder that holds the weights as safetensors", DATA)
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(str(path), "is a Git-LFS pointer, not the weights", "fetch the file it points to", DATA)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        what = f"not safetensors ({path.stat().st_size} bytes): {' '.join(str(error).split())}"
        raise UserError(str(path), what, "fetch it again", DATA) from None
    return tensors
