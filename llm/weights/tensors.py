"""Tensors on disk as safetensors, a format that cannot run code."""

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
    """Write tensors as safetensors, atomically."""
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # also if the disk is full
            needed, free = sum(t.nbytes for t in tensors.values()), shutil.disk_usage(path.parent).free
            what = f"cannot be written: {error}: needs {needed:,} bytes, the disk has {free:,} free"
            raise UserError(str(path), what, "free some disk space", RESOURCES) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, memory-mapped; changing them does not change the file."""
    if not path.is_file():
        pickles = sorted(file.name for file in path.parent.glob("*.bin"))
        what = f"no such file, only {', '.join(pickles)}, which can run code" if pickles else "no such file"
        raise UserError(str(path), what, "name a folder with weights as safetensors", DATA)
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(str(path), "is a Git-LFS pointer, not the weights", "download the file it points to", DATA)
    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (SafetensorError, ValueError, OSError) as error:
        what = f"not safetensors ({path.stat().st_size} bytes): {' '.join(str(error).split())}"
        raise UserError(str(path), what, "download it again", DATA) from None
