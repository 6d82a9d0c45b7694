"""Tensors on disk as safetensors, a format that cannot run code."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llm.common.errors import DATA, RESOURCES, UserError, listed
from llm.common.files import CONFIG_BYTES, atomic_path, read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WHOLE = "download all files of one checkpoint again"
LFS_POINTER = b"version https://git-lfs"
CONVERT = "from transformers import AutoModelForCausalLM as M; M.from_pretrained({0!r}).save_pretrained({0!r})"


class MappedTensors(Mapping[str, Tensor]):
    """Tensors in files. Each access maps one tensor into memory, and dropping the tensor gives that memory back.

    So a caller that converts one after the other never holds a file and its copy at once. Changing a tensor does not
    change the file. An access raises UserError if the type of the tensor is unknown.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files  # of each tensor

    def __getitem__(self, name: str) -> Tensor:
        path = self._files[name]
        with _readable(path), safe_open(path, framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]

    def without(self, prefix: str) -> MappedTensors:
        """All tensors but those whose names start so."""
        return MappedTensors({name: path for name, path in self._files.items() if not name.startswith(prefix)})

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    with atomic_path(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata={"format": "pt"})
        except SafetensorError as error:  # also if the disk is full
            needed, free = sum(t.nbytes for t in tensors.values()), shutil.disk_usage(path.parent).free
            what = f"cannot be written: {error}: needs {needed:,} bytes, the disk has {free:,} free"
            raise UserError(str(path), what, "free some disk space", RESOURCES) from None


def read_weights(folder: Path) -> tuple[MappedTensors, Path]:
    """The tensors of a model folder in one file or in several with an index, and the path for error messages.

    Raises UserError for a missing or damaged file, a shard outside the folder, and a tensor that is not in the shard
    that the index names.
    """
    index = folder / INDEX
    if (folder / WEIGHTS).exists() or not index.is_file():
        return read_tensors(folder / WEIGHTS), folder / WEIGHTS
    listed = read_json(index, CONFIG_BYTES)
    shards = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise UserError(str(index), "has no weight_map of tensors and files", "download it again", DATA)
    files: dict[str, Path] = {}
    for shard in sorted(set(shards.values())):
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise UserError(str(index), f"names {shard!r}, which is not a file of this folder", WHOLE, DATA)
        if not (folder / shard).is_file():
            raise UserError(str(folder / shard), "no such file", WHOLE, DATA)
        found = read_tensors(folder / shard)
        if different := sorted(found.keys() ^ {name for name, file in shards.items() if file == shard}):
            what = f"and {INDEX} disagree about {', '.join(different[:3])}"
            raise UserError(str(folder / shard), what, WHOLE, DATA)
        files |= dict.fromkeys(found, folder / shard)
    return MappedTensors(files), index


def read_tensors(path: Path) -> MappedTensors:
    """The tensors of a file. Raises UserError if it is missing, damaged or not safetensors."""
    if not path.is_file():
        what, fix = "no such file", "name a folder with weights as safetensors"
        others = sorted(file.name for file in path.parent.glob("*.safetensors") if path.name == WEIGHTS)
        if len(others) > 1:
            what, fix = f"{what}, only {listed(others, 3)}", f"download {INDEX} too, or rename the one with all weights"
        elif others:
            what, fix = f"{what}, only {others[0]}", f"rename it to {WEIGHTS}, if it holds all weights"
        elif pickles := sorted(file.name for file in path.parent.glob("*.bin")):
            what += f", only {', '.join(pickles)}, which can run code"
            fix = f'convert it with `python -c "{CONVERT.format(str(path.parent))}"`, or {fix}'
        raise UserError(str(path), what, fix, DATA)
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(str(path), "is a Git-LFS pointer, not the weights", "download the file it points to", DATA)
    with _readable(path), safe_open(path, framework="pt") as opened:
        return MappedTensors(dict.fromkeys(opened.keys(), path))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the errors of a damaged file into a UserError."""
    try:
        yield
    except (SafetensorError, ValueError, OSError) as error:
        what = f"not safetensors ({path.stat().st_size} bytes): {' '.join(str(error).split())}"
        raise UserError(str(path), what, "download it again", DATA) from None
