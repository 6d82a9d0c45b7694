"""Rebuild the pipeline in two folders and compare every byte: `make audit`.

All stages run, also those that `llm repro` leaves out. `make audit STAGES="reason_compare finetune_dpo"` runs these and
what they depend on only. The path, umask, locale, time zone and hash seed differ between the two. dvc.lock, data/,
models/ and reports/ must be the same. Each file that differs is printed, and the exit code is then 1.
"""

from __future__ import annotations

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llm.book.runs import with_python
from llm.common import yaml_file
from llm.common.errors import BUG, USAGE, UserError, error_contract

ROOT = Path(__file__).parents[1]
COMPARED = ("dvc.lock", "data", "models", "reports")
WORLDS = [
    {"folder": "one", "TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1", "umask": "022"},
    {"folder": "the ötherwise", "TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2", "umask": "077"},
]


def main(stages: list[str]) -> int:
    """Rebuild `stages`, or all if none is named, twice and compare; return the exit code."""
    with tempfile.TemporaryDirectory() as parent:
        folders = [rebuild(Path(parent), world, stages) for world in WORLDS]
        names = sorted({name for folder in folders for name in built(folder)})
        different = [name for name in names if not same(folders[0] / name, folders[1] / name)]
        if not names:
            print("audit: nothing was built", file=sys.stderr)
            return 1
        ran = yaml_file.read_plain(folders[0] / "dvc.lock")["stages"]
    for name in different:
        print(f"audit: differs: {name}", file=sys.stderr)
    print(f"audit: {len(ran)} stages, {len(names)} files compared, {len(different)} differ")
    return min(1, len(different))


def rebuild(parent: Path, world: dict[str, str], stages: list[str]) -> Path:
    """Copy the tracked files, but for outputs, to a folder, and run `stages` there; without any, all of them."""
    folder = parent / world["folder"]
    for name in tracked():
        if name == "dvc.lock" or name.startswith("reports/"):
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for words in (["config", "--local", "core.no_scm", "true"], ["repro", "--no-run-cache", *stages]):
        dvc(words, folder, world)
    return folder


def dvc(words: list[str], folder: Path, world: dict[str, str]) -> None:
    """Run DVC in `folder` with the settings of `world` and the current Python interpreter."""
    varied = {key: value for key, value in world.items() if key.isupper()}
    environment = {
        **with_python(),
        **varied,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder.parent}/mlflow.db",
    }
    command = [sys.executable, "-m", "dvc", *words]
    done = subprocess.run(command, cwd=folder, env=environment, umask=int(world["umask"], 8), check=False)
    if done.returncode:
        what = f"exited with code {done.returncode} in {world['folder']!r}"
        raise UserError(f"dvc {words[0]}", what, "see the error above", BUG)


def tracked() -> list[str]:
    """The tracked files that exist."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        raise UserError(
            str(ROOT), "is not a git repository, or git is not installed", "run the audit in a clone", USAGE
        )
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def built(folder: Path) -> set[str]:
    """The files to compare, relative to the folder."""
    paths = [path for name in COMPARED for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    return {path.relative_to(folder).as_posix() for path in paths if "__pycache__" not in path.parts}


def same(a: Path, b: Path) -> bool:
    """Whether both files exist and have the same bytes."""
    return a.is_file() and b.is_file() and filecmp.cmp(a, b, shallow=False)


if __name__ == "__main__":
    with error_contract():
        sys.exit(main(sys.argv[1:]))
