"""Rows of the ablation table, queued, run by DVC, and rendered."""

import json
import subprocess

import pytest

from llm.common import profiles
from stages.schema import AllParams
from tests.stages.project import ROOT, Project

pytestmark = pytest.mark.long


def git(project: Project, *words: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "core.autocrlf=false"]
    done = subprocess.run(["git", *identity, *words], cwd=project.folder, check=True, capture_output=True, text=True)
    return done.stdout


@pytest.fixture
def project(tmp_path) -> Project:
    """The smoke profile, built and committed."""
    made = Project.create(tmp_path / "project")
    (made.folder / ".dvc/config.local").unlink()
    (made.folder / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    profiles.use(ROOT / "configs" / "smoke.yaml", AllParams, made.folder / "params.yaml")
    made.set(tracking={"enabled": False})
    git(made, "init", "-q")
    made.repro("finetune_spam")
    git(made, "add", "-A")
    git(made, "commit", "-qm", "built")
    return made


def test_two_rows_are_queued_and_run_and_stand_in_the_table(project):
    before = project.bytes("params.yaml", "dvc.lock", "reports", "models")
    said = project.run("llm", "ablation", "--queue", "1", "3").stdout
    assert "row  1, last token, last block: queued as ablation-01" in said
    table = project.run("llm", "ablation", "--table").stdout
    assert "| 3 | last layer only | 72.00 | queued | | | |" in table
    ran = project.run("dvc", "exp", "run", "--run-all")
    assert "Running stage 'pretrain'" not in ran.stdout + ran.stderr  # what lies above the row comes from the cache
    assert project.bytes("params.yaml", "dvc.lock", "reports", "models") == before
    table = project.run("llm", "ablation", "--table").stdout
    first, third = ([c.strip() for c in table.splitlines()[line].split("|")[1:-1]] for line in (2, 4))
    for name, cells in (("ablation-01", first), ("ablation-03", third)):
        commit = next(
            line.split()[0] for line in git(project, "for-each-ref", "refs/exps").splitlines() if line.endswith(name)
        )
        metrics = json.loads(git(project, "show", f"{commit}:reports/finetune_spam/metrics.json"))
        assert cells[3] == f"{100 * metrics['test_accuracy']:.2f}"
        assert cells[5] == "gpt2-sample"
    assert third[6].startswith(("better (", "worse (", "not distinguishable ("))
    assert "exists (success)" in project.run("llm", "ablation", "--queue", "1").stdout
