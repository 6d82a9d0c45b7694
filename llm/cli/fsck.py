"""Compare outputs and their objects in the DVC cache with dvc.lock, and bring damaged ones back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.cli.program import open_repo
from llm.cli.repro import BEYOND
from llm.common import dvc_lock, dvc_yaml, files, publishing
from llm.common.errors import DATA, UserError
from llm.compare import holders

if TYPE_CHECKING:
    from dvc.repo import Repo


@dataclass(frozen=True)
class Output:
    """An output as dvc.lock records it, and what was found of it."""

    path: str
    stage: str
    md5: str
    found: str | None  # md5 on the disk; None if it is missing
    damaged: list[Path]  # objects in the cache whose content is not what their name says
    cached: bool  # all its objects are in the cache and whole
    absent: bool = False  # neither on the disk nor in the cache, not even its list of files

    @property
    def on_disk(self) -> bool:
        """Whether the output on the disk is the recorded one."""
        return self.found == self.md5

    @property
    def whole(self) -> bool:
        """Whether neither the output on the disk nor its objects in the cache are damaged."""
        return self.on_disk and not self.damaged

    def error(self, repair: str) -> UserError:
        """The damage, and what `repair` (a command) does about it."""
        state = "is missing" if self.found is None else f"has md5 {self.found}"
        what = "is as recorded" if self.on_disk else f"{state}, dvc.lock has {self.md5}"
        if self.damaged:
            what += f"; in the DVC cache {self.damaged[0]} is damaged"
            more = len(self.damaged) - 1
            what += f" ({more} more)" if more else ""
        how = "copies it into the cache" if self.on_disk else "takes it from the cache"
        if not self.on_disk and not self.cached:
            how = f"pulls it from the remote or runs {self.stage} again"
        return UserError(self.path, what, f"`{repair}` {how}", DATA)


def outputs(root: Path) -> list[Output]:
    """Hash every output of dvc.lock, and its objects in the cache."""
    cache = open_repo(root).cache.local if (root / ".dvc").is_dir() else None
    return [
        _look(str(out["path"]), name, str(out["md5"]), cache)
        for name, stage in dvc_lock.read().items()
        for out in stage.get("outs") or []
        if "md5" in out
    ]


def not_recorded() -> list[str]:
    """The stages of dvc.yaml that dvc.lock has no record of; one record is enough for a stage of several items."""
    known = {name.partition("@")[0] for name in dvc_lock.read()}
    stages = dvc_yaml.stage_names() if dvc_yaml.PIPELINE.is_file() else []
    return [name for name in stages if name not in known]


def look(root: Path) -> tuple[list[Output], list[str]]:
    """The outputs, and the stages beyond the chapters that ran elsewhere.

    Of these nothing is here but their reports, which are in git; their outputs are left out.
    """
    found, here = outputs(root), dict[str, bool]()
    for output in found:
        if output.stage.startswith(BEYOND) and not output.path.startswith("reports/"):
            here[output.stage] = here.get(output.stage, False) or not output.absent
    elsewhere = [stage for stage, is_here in here.items() if not is_here]
    return [output for output in found if output.stage not in elsewhere], elsewhere


def repair(root: Path, bad: Sequence[Output], rerun: Callable[[list[str]], object]) -> Iterator[str]:
    """Bring the outputs back and yield a line for each: from the disk, the cache, the remote, or by `rerun(stages)`."""
    repo = open_repo(root)
    again: list[str] = []
    for output in bad:
        for path in output.damaged:
            path.unlink(missing_ok=True)
        if output.on_disk:
            _store(Path(output.path), output.md5, repo.cache.local)
            yield f"{output.path}: copied into the cache"
            continue
        publishing.remove(Path(output.path))
        if output.cached and _checked_out(repo, output, pull=False):
            yield f"{output.path}: taken from the cache"
        elif _checked_out(repo, output, pull=True):
            yield f"{output.path}: pulled from the remote"
        else:
            again.append(output.stage)
    stages = list(dict.fromkeys(again))
    if stages:
        yield f"run again: {', '.join(stages)}"
        rerun(stages)


def _look(path: str, stage: str, md5: str, cache: Any) -> Output:
    found = files.dvc_md5(path) if Path(path).exists() else None
    damaged, cached = holders.in_cache(cache, md5) if cache else ([], False)
    absent = found is None and cache is not None and not Path(cache.oid_to_path(md5)).exists()
    return Output(path, stage, md5, found, damaged, cached, absent)


def _store(path: Path, md5: str, cache: Any) -> None:
    """Put what the cache lacks of an output on the disk there, read-only as DVC does."""
    contents: list[tuple[str, Path | bytes]] = [(md5, path)]
    if path.is_dir():
        listing = files.dvc_listing(path)
        contents = [(entry["md5"], path / entry["relpath"]) for entry in listing]
        contents.append((md5, json.dumps(listing, sort_keys=True).encode()))
    for name, content in contents:
        target = Path(cache.oid_to_path(name))
        if target.exists():
            continue
        with files.atomic_path(target) as temporary:
            if isinstance(content, bytes):
                temporary.write_bytes(content)
            else:
                shutil.copyfile(content, temporary)
        target.chmod(0o444)


def _checked_out(repo: Repo, output: Output, pull: bool) -> bool:
    """Whether DVC brings the output back from the cache, or from a remote."""
    from dvc.exceptions import DvcException

    if pull and not repo.config["core"].get("remote"):
        return False
    act: Any = repo.pull if pull else repo.checkout
    try:
        act(targets=[output.path], force=True)
    except DvcException:
        return False
    return Path(output.path).exists() and files.dvc_md5(output.path) == output.md5
