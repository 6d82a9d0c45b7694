"""Console commands of the project: use, pin, ablation, report, verify, repair, fsck, ui.

What takes long to import is imported inside the function that needs it, so the others start quickly.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

from llm.cli import report
from llm.cli.report import DVC, PROGRAM
from llm.common import files, params, profiles
from llm.common.errors import DATA, USAGE, UserError, raise_all
from llm.common.progress import Bars


def use_profile(arguments: argparse.Namespace) -> None:
    """Write the values of a profile over params.yaml."""
    from stages.schema import AllParams

    files.project_root()
    edited = _differs_from_git()
    if arguments.profile == "auto":
        from llm.runtime import device

        found = device.detect()
        current = params.read_all(AllParams)
        changes = {"runtime": asdict(found)}
        if current.pretrain.mode == "exact":
            attention = device.fastest_attention(found, current.pretrain.context)
            dropout = device.fastest_dropout(found, current.pretrain.compile)
            changes["model"] = {"attention": attention, "dropout_random": dropout}
        profiles.apply([changes], AllParams, origin="this machine")
        for section, values in changes.items():
            print(f"params.yaml: {section}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    else:
        profiles.use(Path(arguments.profile), AllParams)
        print(f"params.yaml: {arguments.profile} applied; `dvc repro` runs what depends on it")
    if edited:
        print("params.yaml was not as git has it: profiles add up")
        print(f"to have this one alone: git checkout params.yaml && {PROGRAM} use {arguments.profile}")
    if edited is not None:
        print("`git diff params.yaml` shows all changes")
        print("to go back: git checkout params.yaml, then dvc repro (which finds the earlier results in its cache)")


def pin_downloads(_arguments: argparse.Namespace) -> None:
    """Fetch unpinned files and write hash and size into params.yaml."""
    from llm.data.download import pin
    from stages.schema import AllParams

    files.project_root()
    everything = params.read_all(AllParams)
    changes = {}
    for item, source in everything.download.items():
        with Bars() as bars:
            pinned = pin(item, source, Path(".work/blobs"), os.environ.get("LLM_MIRROR"), bars.received)
        if pinned:
            changes[item] = pinned
            for file in pinned["files"]:
                print(f"{item}: {file['name']}: {file['size']:,} bytes, sha256 {file['sha256']}")
    if changes:
        profiles.apply([{"download": changes}], AllParams, origin="pin")
        print("params.yaml: written; look at `git diff params.yaml` and commit it")
    else:
        print("every download is pinned")


def run_ablation(arguments: argparse.Namespace) -> None:
    """Queue rows of configs/ablation/chapter6.yaml as experiments, or print the table of those that have run."""
    from llm.book import variants
    from stages.schema import AllParams

    files.project_root()
    table = variants.read()
    if arguments.table:
        print("\n".join(variants.render(table)))
        return
    for line in variants.queue(table, arguments.queue, AllParams):
        print(line, flush=True)
    print(f"`dvc exp run --run-all`, in the activated environment, runs them; then: {PROGRAM} ablation --table")


def show_report(_arguments: argparse.Namespace) -> None:
    """Print the results that stand in reports/, a sample text, and what to try next."""
    files.project_root()
    for line in report.lines():
        print(line)


def verify_numbers(arguments: argparse.Namespace) -> None:
    """Print every number of the book's ledger beside ours; raises UserError where one is outside."""
    from llm.book import ledger, runs

    root, book = files.project_root(), ledger.read()
    for name, run in [(name, runs.known(name, book.runs)) for name in arguments.runs]:
        runs.make(name, run, root)
    results = list(ledger.verify(book, root, arguments.only))
    if not results:
        raise UserError("--only", f"{arguments.only!r} fits no row", "see the ids in llm/book/golden.yaml", USAGE)
    for line in ledger.table(results):
        print(line)
    if arguments.write:
        files.write_text(arguments.write, ledger.markdown(results))
    fix = "digits need x86 Linux and fp32; else compare torch's version with constraints.txt"
    problems = [
        UserError(result.row.id, f"is {ledger.shorten(result.ours)}, the book prints {result.row.published}", fix, DATA)
        for result in results
        if result.verdict == "outside"
    ]
    raise_all(problems)


def repair_project(_arguments: argparse.Namespace) -> None:
    """Say what had to be repaired; nothing where nothing had."""
    from llm.cli.repair import repair

    for line in repair(files.project_root()):
        print(line)


def check_outputs(_arguments: argparse.Namespace) -> None:
    """Compare every output on disk with the md5 in dvc.lock: DVC itself trusts a file that looks untouched."""
    files.project_root()
    locked = [
        (str(out["path"]), str(out["md5"]))
        for stage in params.load("dvc.lock").get("stages", {}).values()
        for out in stage.get("outs", [])
    ]
    problems = []
    for path, md5 in locked:
        if not Path(path).exists():
            problems.append(UserError(path, f"is not there, dvc.lock has {md5}", f"run `{DVC} checkout`", DATA))
        elif (found := files.dvc_md5(path)) != md5:
            fix = f"move .dvc/cache away, remove {path} and run `make repro`"
            problems.append(UserError(path, f"has md5 {found}, dvc.lock {md5}", fix, DATA))
    raise_all(problems)
    print(f"{len(locked)} outputs are as dvc.lock says")


def serve_ui(arguments: argparse.Namespace) -> None:
    """Run the MLflow UI until it is ended."""
    from llm.tracking import ui

    ui.serve(files.project_root(), arguments.port)


def _differs_from_git() -> bool | None:
    """Whether params.yaml is not as git has it; None where there is no git to ask."""
    if not Path(".git").exists() or shutil.which("git") is None:
        return None
    asked = ["git", "--no-optional-locks", "diff", "--quiet", "--", "params.yaml"]
    code = subprocess.run(asked, capture_output=True, check=False).returncode
    return bool(code) if code in (0, 1) else None
