"""Move what a stage has built into its place, on the same or another file system."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from llm.common.errors import DATA, NO_ROOM, RESOURCES, UserError


def publish(built: Path, final: Path) -> None:
    """Move a finished file or folder to `final`. An old folder is moved away first, and put back if the move fails.

    If `final` is on another file system, `built` is first copied beside it. Raises UserError if there is no room
    (RESOURCES) or `final` cannot be written; an old `final` is then unchanged.
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            _replace(built, final)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            _copy_and_replace(built, final)
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        if error.errno not in NO_ROOM:
            raise UserError(str(final), what, "make its folder writable and run it again", DATA) from None
        needed, free = sum(size for _, size in _contents(built)), shutil.disk_usage(final.parent).free
        what += f"; it needs {needed:,} bytes, the disk has {free:,} free"
        raise UserError(str(final), what, "free some space and run it again", RESOURCES) from None


def _replace(built: Path, final: Path) -> None:
    if not os.path.lexists(final) or not (final.is_dir() or built.is_dir()):
        built.replace(final)
        return
    old = built.with_name(built.name + ".replaced")
    remove(old)
    final.replace(old)
    try:
        built.replace(final)
    except BaseException:
        old.replace(final)
        raise
    remove(old)


def _copy_and_replace(built: Path, final: Path) -> None:
    """Copy `built` beside `final`, onto the disk, and rename the copy. The next run removes what a kill leaves."""
    copy = final.with_name(f".{final.name}.copy")
    remove(copy)
    try:
        for path, _ in _contents(built):
            target = copy / path.relative_to(built)  # `built` itself is "."
            if path.is_dir():
                target.mkdir()
                continue
            shutil.copyfile(path, target)
            with target.open("rb") as file:
                os.fsync(file.fileno())
        _replace(copy, final)
    finally:
        remove(copy)
    remove(built)


def _contents(path: Path) -> list[tuple[Path, int]]:
    """The file or folder `path` and all that is in it, folders first, with the bytes of each file."""
    paths = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
    return [(each, 0 if each.is_dir() else each.stat().st_size) for each in paths]


def remove(path: Path) -> None:
    """Remove a file, folder or link if it exists. The target of a link is kept."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
