"""The runs whose reports the ledger reads: their parameters, how to recognise a run, how to make it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llm.common import code, dvc_lock, files, yaml_file
from llm.common.errors import DATA, USAGE, UserError
from llm.common.params import Problem
from llm.tracking import spool

MADE = Path(".work/verify")  # one copy of the project for each run that `make` makes
COPIED = ("llm", "stages", "configs", "data/sample", "data/web", "dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config")


@dataclass(frozen=True)
class Run:
    """A finished stage, the parameters that dvc.lock must record, and the profiles and settings that give them."""

    stage: str
    params: tuple[str, ...]  # key=value
    use: tuple[str, ...]  # profiles, later ones override earlier ones
    set: tuple[str, ...] = ()  # key=value, overrides the profiles

    def problems(self) -> Iterator[Problem]:
        for name in ("params", "set"):
            for word in getattr(self, name):
                if "=" not in word:
                    yield name, f"{word!r} has no =", "write key=value"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `set` as nested sections."""
        sections: dict[str, Any] = {}
        for word in self.set:
            key, _, text = word.partition("=")
            *path, last = key.split(".")
            section = sections
            for name in path:
                section = section.setdefault(name, {})
            section[last] = yaml_file.plain().load(text)
        return sections

    def missing(self, root: Path, project: Path) -> str | None:
        """Why the reports in `root` are not from this run with the code of `project`; None if they are."""
        path = root / "dvc.lock"
        stages = dvc_lock.read(path)
        if self.stage not in stages:
            return f"dvc.lock has no {self.stage}"
        entry = stages[self.stage]
        given: dict[str, Any] = {}
        for each in (*stages.values(), entry):  # and the parameters of other stages, such as model
            given |= dvc_lock.parameters(each)
        for word in self.params:
            key, _, wanted = word.partition("=")
            found = dvc_lock.lookup(given, key)
            if found != yaml_file.plain().load(wanted):
                return f"the last {self.stage} had {key} {found}, not {wanted}"
        lists = {name: md5 for name, md5 in dvc_lock.hashes(entry, "deps").items() if name.startswith(code.LISTS)}
        if code.list_md5s(lists, project) != lists:
            return f"the last {self.stage} ran with other code"
        for name, md5 in dvc_lock.hashes(entry, "outs").items():
            if name.startswith("reports/") and not _is(root / name, md5):
                return f"{name} is not the file that dvc.lock records"
        return None


def make(name: str, run: Run, root: Path) -> None:
    """Run the pipeline for `run` in a copy of the project in .work/verify; the project's outputs do not change.

    The copies share the DVC cache. Raises UserError if a command fails.
    """
    copy = root / MADE / name
    copy_project(root, copy)
    cache = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()
    files.write_text(copy / ".dvc/config.local", f"[core]\n    no_scm = true\n[cache]\n    dir = {cache}\n")
    files.write_text(copy / "settings.yaml", yaml.safe_dump(run.settings))
    environment = with_python() | {"MLFLOW_TRACKING_URI": spool.tracking_uri(root)}
    profiles = [*run.use, "settings.yaml"] if run.set else run.use
    for words in (*(["llm", "use", profile] for profile in profiles), ["llm", "pin"], ["dvc", "repro", run.stage]):
        done = subprocess.run([sys.executable, "-m", *words], cwd=copy, env=environment, check=False)
        if done.returncode:
            what = f"`{' '.join(words)}` ended with {done.returncode}"
            raise UserError(f"{MADE / name}", what, "see the error above", DATA)


def with_python() -> dict[str, str]:
    """The environment with this interpreter first on PATH, since DVC starts stages as `python`."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def copy_project(root: Path, copy: Path, *more: str) -> None:
    """Copy what the pipeline needs, and `more`, into another folder; other files there are kept."""
    for part in (*COPIED, *more):
        source, target = root / part, copy / part
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            files.write_bytes(target, files.read_bytes(source))


def known(name: str, runs: dict[str, Run]) -> Run:
    """The run with this name; raises UserError for an unknown name."""
    if name not in runs:
        raise UserError("--run", f"there is no run {name!r}", f"name one of {', '.join(runs)}", USAGE)
    return runs[name]


def _is(path: Path, md5: str) -> bool:
    return path.is_file() and files.dvc_md5(path) == md5
