"""Console commands of the project: use, pin, repro, report, ui, repair, fsck, verify, ablation.

Slow imports are inside the functions that need them, so that the other commands start quickly.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from llm.cli import report
from llm.cli.program import program
from llm.common import files, git_here, params, profiles
from llm.common.errors import DATA, USAGE, UserError, nearest, raise_all
from llm.common.progress import Bars

CONFIGS = Path("configs")
AUTO = "auto"


def use_profile(arguments: argparse.Namespace) -> None:
    """Write the values of a profile into params.yaml, or list the profiles."""
    files.project_root()
    if arguments.list:
        print("\n".join(profile_names()))
        return
    path = None if arguments.profile == AUTO else profile_path(arguments.profile)
    from stages.schema import AllParams

    edited = _differs_from_git()
    if path is None:
        from llm.runtime import device

        current = params.read_all(AllParams)
        found = device.detect(current.runtime)
        changes = {"runtime": asdict(found)}
        if current.pretrain.mode == "exact":
            attention = device.fastest_attention(found, current.pretrain.context)
            compiled = found.ranks == 1 and (current.pretrain.compile or device.compiles(found))
            dropout = device.fastest_dropout(found, compiled)
            changes["model"] = {"attention": attention, "dropout_random": dropout}
            changes["pretrain"] = {"compile": compiled}
        profiles.apply([changes], AllParams, origin="this machine")
        for section, values in changes.items():
            print(f"params.yaml: {section}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    else:
        profiles.use(path, AllParams)
        print(f"params.yaml: {path} applied; `{program()} repro` runs the stages that depend on it")
    if edited:
        print("params.yaml had changes that are not in git; they are kept, as profiles add up")
        print(f"to use only this profile: git checkout params.yaml && {program()} use {arguments.profile}")
    if edited is not None:
        print("to see all changes: git diff params.yaml")
        print(f"to undo all changes: git checkout params.yaml && {program()} repro (earlier results are cached)")


def profile_names() -> list[str]:
    """The names that `use` knows: `auto`, and the files below configs/ without folder and suffix."""
    from llm.book.variants import FILE

    paths = (path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml") if path != FILE)
    return [AUTO, *sorted(path.with_suffix("").as_posix() for path in paths)]


def profile_path(name: str) -> Path:
    """The file of a profile, given its path or its name; raises UserError if there is none."""
    for path in (Path(name), CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    known = profile_names()
    what = f"{name!r} is neither a file nor one of the profiles {', '.join(known)}"
    fix = nearest(name.removeprefix(f"{CONFIGS}/").removesuffix(".yaml"), known, "name one of these")
    raise UserError("command line", what, fix, USAGE)


def pin_downloads(_arguments: argparse.Namespace) -> None:
    """Download unpinned files and write their hashes and sizes into params.yaml."""
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
        print("params.yaml: hashes written; check `git diff params.yaml` and commit it")
    else:
        print("all downloads are pinned")


def run_ablation(arguments: argparse.Namespace) -> None:
    """Queue rows of configs/ablation/chapter6.yaml as experiments, or print the table of their results."""
    from llm.book import variants
    from stages.schema import AllParams

    files.project_root()
    table = variants.read()
    if arguments.table:
        print("\n".join(variants.render(table)))
        return
    for line in variants.queue(table, arguments.queue, AllParams):
        print(line, flush=True)
    print("to run them, in the activated environment: dvc exp run --run-all")
    print(f"to see their results: {program()} ablation --table")


def run_pipeline(arguments: argparse.Namespace) -> None:
    """Repair the project, say what will run, run `dvc repro`, show the results, and log the report's page in MLflow."""
    from llm.cli.plan import announce
    from llm.cli.repro import names_and_options, run_dvc
    from llm.tracking import attach

    files.project_root()
    params.load()  # DVC would not name the line
    repair_project(arguments)
    names, options = names_and_options(arguments.targets)
    if not arguments.force:
        announce(names)
    recorded = attach.last_recorded(Path.cwd())
    key = run_dvc([*(["--force"] if arguments.force else []), *options, *names])
    print()
    for line in report.lines():
        print(line)
    if attach.last_recorded(Path.cwd()) != recorded:  # a stage ran, and tracking is on
        from llm.compare.report import page

        with tempfile.TemporaryDirectory() as folder:
            files.write_text(file := Path(folder, "report.html"), page())
            attach.attach(Path.cwd(), key, file)
    else:
        attach.deliver(Path.cwd())


def show_report(arguments: argparse.Namespace) -> None:
    """Print the results in reports/, a sample text and what to try next; write them as a page with --html."""
    files.project_root()
    for line in report.lines():
        print(line)
    if arguments.html:
        from llm.cli.compare import write_page
        from llm.compare.report import page

        write_page(arguments.html, page())


def record_baseline(_arguments: argparse.Namespace) -> None:
    """Commit dvc.lock and reports/ as the figures of this machine."""
    from llm.cli import baseline

    files.project_root()
    if found := baseline.record():
        print(f"{len(found)} outputs differ from the last commit: committed dvc.lock and reports/")
    else:
        print("nothing to record: all outputs are those of the last commit")
    print(f"`{program()} compare` compares with this machine's figures")


def verify_numbers(arguments: argparse.Namespace) -> None:
    """Print every number of the book's ledger with ours; raises UserError if one is outside its tolerance."""
    from llm.book import ledger, runs

    root, book = files.project_root(), ledger.read()
    if arguments.write:
        files.check_writable(arguments.write)
    for name, run in [(name, runs.known(name, book.runs)) for name in arguments.runs]:
        runs.make(name, run, root)
    results = list(ledger.verify(book, root, arguments.only))
    if not results:
        raise UserError("--only", f"no row matches {arguments.only!r}", "see the ids in llm/book/golden.yaml", USAGE)
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
    """Repair the project and print what was repaired."""
    from llm.cli.repair import repair

    for line in repair(files.project_root()):
        print(line, flush=True)


def check_outputs(arguments: argparse.Namespace) -> None:
    """Compare every output and its objects in the DVC cache with dvc.lock; with `--repair`, bring damaged ones back.

    DVC itself does not hash files again whose time and size are unchanged.
    """
    from llm.cli import fsck
    from llm.cli.repro import run_dvc

    root = files.project_root()
    found, elsewhere = fsck.look(root)
    if arguments.repair and (bad := [output for output in found if not output.whole]):
        for line in fsck.repair(root, bad, run_dvc):
            print(line, flush=True)
        found, elsewhere = fsck.look(root)
    missing = fsck.not_recorded()
    if not found:
        what = f"records no output of the {len(missing)} stages in dvc.yaml"
        raise UserError("dvc.lock", what, f"run `{program()} repro`, or restore the file from git", DATA)
    if missing:
        print(f"not in dvc.lock, so not checked: {', '.join(missing)}")
    if elsewhere:
        print(f"not run here, so not checked: {', '.join(elsewhere)}")
    raise_all([output.error(f"{program()} fsck --repair") for output in found if not output.whole])
    print(f"{len(found)} outputs match dvc.lock")


def serve_ui(arguments: argparse.Namespace) -> None:
    """Become the MLflow UI."""
    from llm.tracking import ui

    ui.serve(files.project_root(), arguments.port)


def _differs_from_git() -> bool | None:
    """Whether params.yaml differs from git's index; None without git."""
    changed = git_here.text("diff", "--name-only", "--", "params.yaml") if git_here.holds(Path.cwd()) else None
    return None if changed is None else bool(changed)
