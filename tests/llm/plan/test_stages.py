"""Which stages `llm plan` says would run is which stages DVC then runs."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from llm.book.runs import with_python
from llm.common import files
from llm.common.errors import UserError
from llm.plan.stages import Planned, planned

ROOT = Path(__file__).parents[3]
COPY = 'python -c "import pathlib, sys; pathlib.Path(sys.argv[2]).write_text(pathlib.Path(sys.argv[1]).read_text())"'


def copies(source: str, target: str, *params: str) -> dict[str, Any]:
    return {"cmd": f"{COPY} {source} {target}", "params": list(params), "deps": [source], "outs": [target]}


DVC_YAML = {
    "stages": {
        "first": copies("source.txt", "one.txt", "first"),
        "second": copies("one.txt", "two.txt", "second.size"),
        "aside": copies("source.txt", "three.txt"),
    }
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path(".dvc").mkdir()
        shutil.copyfile(ROOT / ".dvc/config", ".dvc/config")
        files.write_text(".dvc/config.local", "[core]\n    no_scm = true\n")
        files.write_text("dvc.yaml", yaml.safe_dump(DVC_YAML))
        files.write_text("source.txt", "abc")
        write_params()
        repro()
    return folder


@pytest.fixture(autouse=True)
def project(built, tmp_path, monkeypatch):
    shutil.copytree(built, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")


def write_params(first: int = 1, size: int = 2) -> None:
    files.write_text("params.yaml", yaml.safe_dump({"first": first, "second": {"size": size}}))


def repro(*words: str) -> set[str]:
    """Run `dvc repro`; return the stages that ran or came from the cache of runs."""
    command = [sys.executable, "-m", "dvc", "repro", *words]
    done = subprocess.run(command, env=with_python(), capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return {line.split("'")[1] for line in lines if line.startswith("Running stage") or "is cached" in line}


def plan(*targets: str) -> dict[str, Planned]:
    with Repo(".") as repo:
        return {one.name: one for one in planned(repo, targets)[0]}


def test_nothing_runs_when_nothing_changed():
    assert plan() == {}
    assert repro() == set()


def test_a_parameter_is_named_with_both_values():
    write_params(size=3)
    assert plan()["second"].reasons == ("second.size 2 → 3",)
    assert plan().keys() == repro() == {"second"}


def test_what_follows_a_changed_input_is_planned_too():
    files.write_text("source.txt", "other")
    found = plan()
    assert found["first"].reasons == ("source.txt changed",)
    assert found["second"].reasons == ("after first",)
    assert found.keys() == repro() == {"first", "second", "aside"}


def test_a_source_that_is_not_there_is_missing_not_changed():
    Path("source.txt").unlink()
    found = plan()
    assert {name: one.reasons for name, one in found.items()} == {
        "first": ("source.txt is missing",),
        "second": ("after first",),
        "aside": ("source.txt is missing",),
    }
    Path("dvc.lock").unlink()
    assert plan()["first"].reasons == ("it has not run yet", "source.txt is missing")


def test_a_missing_output_comes_from_the_cache():
    Path("two.txt").unlink()
    found = plan()
    assert found["second"].reasons == ("two.txt is missing",)
    assert found["second"].cached
    assert found.keys() == repro()


def test_what_an_earlier_run_made_comes_from_the_cache_of_runs():
    write_params(first=5)
    assert not plan()["first"].cached
    repro()
    write_params()
    found = plan()
    assert {name: one.cached for name, one in found.items()} == {"first": True}
    assert found.keys() == repro()


def test_a_plan_needs_no_program_git(monkeypatch, tmp_path):
    write_params(size=3)
    expected = plan()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert plan() == expected != {}


def test_a_target_takes_what_it_needs():
    files.write_text("source.txt", "other")
    assert plan("second").keys() == {"first", "second"} == repro("second")
    with pytest.raises(UserError, match="nowhere"):
        plan("nowhere")


def test_a_stage_that_reads_a_part_of_an_output_follows_its_maker():
    """As on a fresh clone, where `data/tokens` is missing and a stage reads `data/tokens/part`."""
    make = "python -c \"import pathlib; pathlib.Path('made').mkdir(); pathlib.Path('made/part').write_text('x')\""
    stages = {
        "maker": {"cmd": make, "deps": ["source.txt"], "outs": ["made"]},
        "reader": copies("made/part", "four.txt"),
    }
    files.write_text("dvc.yaml", yaml.safe_dump({"stages": stages}))
    repro()
    shutil.rmtree("made")
    files.write_text("source.txt", "changed")
    found = plan()
    assert [found[name].reasons for name in ("maker", "reader")] == [
        ("made is missing", "source.txt changed"),
        ("after maker",),
    ]


def test_a_stage_that_reads_a_folder_of_outputs_follows_their_makers():
    write = "p = pathlib.Path('all/one'); p.parent.mkdir(exist_ok=True); p.write_text('x')"
    make = f'python -c "import pathlib; {write}"'
    count = "python -c \"import pathlib; pathlib.Path('five.txt').write_text('x')\""
    stages = {
        "maker": {"cmd": make, "params": ["first"], "outs": ["all/one"]},
        "reader": {"cmd": count, "deps": ["all"], "outs": ["five.txt"]},
    }
    files.write_text("dvc.yaml", yaml.safe_dump({"stages": stages}))
    repro()
    write_params(first=7)
    assert {name: one.reasons for name, one in plan().items()} == {
        "maker": ("first 1 → 7",),
        "reader": ("after maker",),
    }


def test_a_plan_of_nothing_needs_no_torch():
    modules = "llm.cli.plan, llm.plan.view, llm.plan.stages"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_stage_that_would_start_from_its_own_output_is_named():
    stages = {"first": copies("one.txt", "one.txt"), "aside": copies("one.txt", "three.txt")}
    files.write_text("dvc.yaml", yaml.safe_dump({"stages": stages}))
    with pytest.raises(UserError, match=r"params.yaml: first: a circle, .* copy that model"):
        plan()
