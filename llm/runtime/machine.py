"""What this machine has free: memory, of the host, its cgroup or a GPU, and disk."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import torch

from llm.common.errors import RESOURCES, UserError

SURE = 0.7  # of an estimate: what is needed even where it is too high


PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def check_memory(where: str, what: str, needed: int, device: str, fix: str) -> None:
    """Refuse what surely does not fit into memory, warn of what may not.

    Raises UserError (code RESOURCES) that points to `where`.
    """
    free = available(device)
    if free is None or needed <= free:
        return
    said = f"{what} needs about {gigabytes(needed)} of memory, {gigabytes(free)} are free"
    if SURE * needed > free:
        raise UserError(where, said, fix, RESOURCES)
    print(f"warning: {where}: {said}", file=sys.stderr)


def check_disk(folder: Path, size: int) -> None:
    """Raise UserError (code RESOURCES) where the disk of `folder`, which need not exist yet, has no room for `size`."""
    there = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        what = f"about {gigabytes(size)} will be written, {gigabytes(free)} are free"
        raise UserError(str(folder), what, "free some space and run it again", RESOURCES)


def available(device: str) -> int | None:
    """Bytes that this process can still have on `device`; None where the system does not say."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if device != "cpu":
        return None
    try:
        lines = (PROC / "meminfo").read_text().splitlines()
    except OSError:
        return None
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    free += cgroup_rooms()
    return min(free) if free else None


def cgroup_rooms() -> list[int]:
    """What each memory limit above this process leaves, in bytes; file pages that can be dropped count as free."""
    try:
        lines = (PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    rooms = []
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
                rooms += _room(folder, *names)
    return rooms


def _room(folder: Path, limit: str, used: str, droppable: str) -> list[int]:
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return []
    return [] if most == "max" else [max(0, int(most) - now + int(stat.get(droppable, 0)))]


def gigabytes(size: int) -> str:
    """A size as it is written for people: 5.2 GB."""
    return f"{size / 1e9:,.1f} GB"
