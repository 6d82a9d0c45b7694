"""Free memory of the host, its cgroups or a GPU, and free disk space."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import torch

from llm.common.errors import RESOURCES, UserError

SURE = 0.7  # share of an estimate that is needed even if the estimate is too high
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def check_memory(where: str, what: str, needed: int, device: str, fix: str) -> None:
    """Raise UserError (code RESOURCES) if `needed` bytes surely exceed the free memory; warn if they may."""
    free = available(device)
    if free is None or needed <= free:
        return
    problem = f"{what} needs about {readable(needed)} of memory, {readable(free)} are free"
    if SURE * needed > free:
        raise UserError(where, problem, fix, RESOURCES)
    print(f"warning: {where}: {problem}", file=sys.stderr)


def check_disk(folder: Path, size: int) -> None:
    """Raise UserError (code RESOURCES) if `size` bytes do not fit on the disk of `folder`, which may not exist yet."""
    existing = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        what = f"needs about {readable(size)} of disk space, {readable(free)} are free"
        raise UserError(str(folder), what, "free some disk space", RESOURCES)


def available(device: str) -> int | None:
    """Bytes that this process can still allocate on `device`; None if unknown."""
    if device == "cuda":
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # freed, and kept by PyTorch for reuse
        return int(torch.cuda.mem_get_info()[0]) + kept
    if device != "cpu":
        return None
    try:
        lines = (PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    free += cgroup_free()
    return min(free) if free else None


def give_back() -> None:
    """Give freed memory of the host back to the system, which glibc would keep with `runtime.keep_pages`."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def cgroup_free() -> list[int]:
    """Free bytes under the memory limit of each cgroup of this process; droppable file pages count as free."""
    try:
        lines = (PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    free = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, names = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = Path(os.path.normpath(root / path.lstrip("/")))
        for folder in [group, *group.parents]:
            if folder == root or root in folder.parents:
                free += _free_in(folder, *names)
    return free


def _free_in(folder: Path, limit: str, used: str, droppable: str) -> list[int]:
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    return [] if most == "max" else [max(0, int(most) - now + int(stat.get(droppable, 0)))]


def readable(size: int) -> str:
    """A size in bytes as text, such as 5.2 GB or 130 kB."""
    for unit, one in (("GB", 10**9), ("MB", 10**6)):
        if size >= one / 10:
            return f"{size / one:,.1f} {unit}"
    return f"{size / 1e3:,.0f} kB"
