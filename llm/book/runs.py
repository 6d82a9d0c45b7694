"""The runs whose reports rows of the ledger read: which parameters made them, and how to have one made."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llm.common import code, files
from llm.common.errors import DATA, USAGE, UserError
from llm.common.params import Problem
from llm.tracking import spool

MADE = Path(".work/verify")  # a copy of the project for each run that `make` made
COPIED = ("llm", "stages", "configs", "data/sample", "data/web", "dvc.yaml", "params.yaml", ".dvcignore", ".dvc/config")
CODE = ".check/"  # the lists of code that `check` writes


@dataclass(frozen=True)
class Run:
    """A finished stage, what dvc.lock must say of its parameters, and the profiles and settings that bring it about."""

    stage: str
    params: tuple[str, ...]  # key=value
    use: tuple[str, ...]  # profiles, one over the other
    set: tuple[str, ...] = ()  # key=value over the profiles

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values."""
        for name in ("params", "set"):
            for word in getattr(self, name):
                if "=" not in word:
                    yield name, f"{word!r} has no =", "write key=value"

    @property
    def settings(self) -> dict[str, Any]:
        """What `set` changes, in sections."""
        sections: dict[str, Any] = {}
        for word in self.set:
            key, _, text = word.partition("=")
            *path, last = key.split(".")
            section = sections
            for name in path:
                section = section.setdefault(name, {})
            section[last] = yaml.safe_load(text)
        return sections

    def missing(self, root: Path, project: Path) -> str | None:
        """Why the reports below `root` are not of this run and the code of `project`; None where they are."""
        path = root / "dvc.lock"
        stages = yaml.safe_load(files.read_text(path))["stages"] if path.is_file() else {}
        if self.stage not in stages:
            return f"dvc.lock has no {self.stage}"
        entry = stages[self.stage]
        given: dict[str, Any] = {}
        for each in (*stages.values(), entry):  # those of the stages before it, too
            given |= each.get("params", {}).get("params.yaml", {})
        for word in self.params:
            key, _, wanted = word.partition("=")
            found = lookup(given, key)
            if found != yaml.safe_load(wanted):
                return f"the last {self.stage} had {key} {found}, not {wanted}"
        for dep in entry.get("deps", []):
            name = str(dep["path"])
            if name.startswith(CODE):
                text = code.listing(code.closure(f"stages.{name.removeprefix(CODE)}", project))
                if hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() != dep["md5"]:
                    return f"the last {self.stage} ran with other code"
        for out in entry["outs"]:
            name = str(out["path"])
            if name.startswith("reports/") and not _is(root / name, out["md5"]):
                return f"{name} is not the one of dvc.lock"
        return None


def make(name: str, run: Run, root: Path) -> None:
    """Run the pipeline for `run` in a copy of the project below .work/verify; its own outputs stay as they are.

    What was made before comes from the cache, which the copies share. Raises UserError where a command fails.
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
    """This environment; DVC, which starts stages as `python`, finds the interpreter there that runs this."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def copy_project(root: Path, copy: Path, *more: str) -> None:
    """Bring what the pipeline needs to run, and `more`, into another folder; what is there besides stays."""
    for part in (*COPIED, *more):
        source, target = root / part, copy / part
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            files.write_bytes(target, files.read_bytes(source))


def lookup(values: Any, key: str) -> Any:
    """The value of a dotted key, whose sections dvc.lock may have joined with dots; None where it has none."""
    if not isinstance(values, dict):
        return None
    if key in values:
        return values[key]
    for name, inner in values.items():
        if key.startswith(f"{name}."):
            return lookup(inner, key[len(name) + 1 :])
    return None


def known(name: str, runs: dict[str, Run]) -> Run:
    """The run of this name; raises UserError where there is none."""
    if name not in runs:
        raise UserError("--run", f"{name!r} is no run", f"name one of {', '.join(runs)}", USAGE)
    return runs[name]


def _is(path: Path, md5: str) -> bool:
    return path.is_file() and files.dvc_md5(path) == md5
