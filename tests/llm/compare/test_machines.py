"""The README's first comparison on a machine that computes other bytes, with the real DVC."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llm.book.runs import with_python
from llm.cli.parser import main
from llm.common import files
from tests.llm.compare.conftest import git

DVC_YAML = """
stages:
  pretrain:
    cmd: python stage.py pretrain source.txt
    params: [pretrain.lr]
    deps: [source.txt]
    outs: [models/pretrain]
    metrics:
      - reports/pretrain/metrics.json: {cache: false}
  tune:
    cmd: python stage.py tune models/pretrain
    params: [tune.lr]
    deps: [models/pretrain]
    outs: [models/tune]
    metrics:
      - reports/tune/metrics.json: {cache: false}
"""
# The machine rounds in its own way: a digit that no parameter and no dependency holds.
STAGE = """
import json, os, pathlib, sys, ruamel.yaml
name, read = sys.argv[1:]
lr = ruamel.yaml.YAML(typ="safe").load(open("params.yaml"))[name]["lr"]
for folder in ("models", f"reports/{name}"):
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
text = f"{lr} of {len(open(read).read())} on {os.environ['MACHINE']}"
pathlib.Path(f"models/{name}").write_text(text)
json.dump({"level": lr + int(os.environ["MACHINE"]) / 1000}, open(f"reports/{name}/metrics.json", "w"))
"""


def repro() -> None:
    words = [sys.executable, "-m", "dvc", "repro"]
    done = subprocess.run(words, check=False, env=with_python(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def write_params(pretrain: float = 0.5, tune: float = 0.5) -> None:
    files.write_text("params.yaml", yaml.safe_dump({"pretrain": {"lr": pretrain}, "tune": {"lr": tune}}))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A clone on machine 2 of what machine 1 has committed, built there."""
    folder = tmp_path_factory.mktemp("machines")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _as_author(patch)
        git("init", "-q")
        subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True, env=with_python())
        texts = {"dvc.yaml": DVC_YAML, "stage.py": STAGE, "source.txt": "a text", ".gitignore": "/models\n"}
        for name, text in texts.items():
            files.write_text(name, text)
        write_params()
        patch.setenv("MACHINE", "1")
        repro()
        git("add", "-A")
        git("commit", "-q", "-m", "one")
        for name in ("models", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(name)
        patch.setenv("MACHINE", "2")
        repro()
    return folder


@pytest.fixture
def clone(made, tmp_path, monkeypatch) -> Path:
    """A copy of it as the working directory."""
    folder = tmp_path / "project"
    shutil.copytree(made, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MACHINE", "2")
    _as_author(monkeypatch)
    return folder


def _as_author(patch: pytest.MonkeyPatch) -> None:
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        patch.setenv(f"{name}_NAME", "a")
        patch.setenv(f"{name}_EMAIL", "a@example.org")


def told(capsys, *words: str) -> str:
    capsys.readouterr()
    main(list(words))
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_after_a_baseline_only_the_change_is_shown(clone, capsys):
    assert told(capsys, "baseline").startswith("4 outputs differ from the last commit: committed")
    assert "Nothing differs" in told(capsys, "compare")
    write_params(tune=0.25)
    repro()
    shown = told(capsys, "compare")
    assert "note:" not in shown
    assert "tune tune.lr changed" in shown
    assert "pretrain models" not in shown
    assert "tune: level 0.502 0.252 -0.25" in shown
    assert shown.count(": level") == 1


def test_without_one_it_is_said_that_not_all_is_the_change(clone, capsys):
    note = "note: from the same inputs, this machine computes other outputs than HEAD ("
    shown = told(capsys, "compare")
    assert note in shown
    assert "has, of pretrain;" in shown
    write_params(pretrain=0.25)
    repro()
    shown = told(capsys, "compare")  # the run without the change is in DVC's cache of runs
    assert note in shown
    assert "has, of pretrain;" in shown
    assert "`llm baseline`" in shown


@pytest.mark.slow
def test_on_the_machine_of_the_commit_nothing_is_said(clone, capsys, monkeypatch):
    monkeypatch.setenv("MACHINE", "1")
    for name in ("models", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(name)
    repro()
    assert told(capsys, "baseline").startswith("nothing to record: all outputs are those of the last commit")
    write_params(pretrain=0.25)
    repro()
    assert "note:" not in told(capsys, "compare")
