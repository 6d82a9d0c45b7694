"""A machine that computes other bytes is told from a change of the user's, and can record its own baseline."""

import subprocess
from pathlib import Path

import pytest
import yaml

from llm.cli import baseline
from llm.common import files
from llm.common.errors import UserError

ROOT = Path(__file__).parents[3]


def git(*words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def run(loss: float, lr: float = 0.1, code: str = "1", data: str = "2") -> None:
    """What `dvc repro` leaves behind: outputs, and dvc.lock."""
    files.write_json("reports/pretrain/metrics.json", {"loss": loss})
    files.write_text("models/pretrain/weights", str(loss))
    outs = [{"path": path, "md5": files.dvc_md5(path)} for path in ("models/pretrain", "reports/pretrain/metrics.json")]
    deps = [{"path": ".check/pretrain", "md5": code}, {"path": "data/sample.txt", "md5": data}]
    params = {"params.yaml": {"pretrain.lr": lr}}
    reads = [{"path": "models/pretrain", "md5": outs[0]["md5"]}]
    stages = {
        "check": {"cmd": "c", "deps": [{"path": "llm", "md5": str(loss)}], "outs": [{"path": ".check", "md5": code}]},
        "pretrain": {"cmd": "a", "deps": deps, "params": params, "outs": outs},
        "respond": {"cmd": "b", "deps": reads, "outs": []},
    }
    files.write_text("dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@example.org")
    git("init", "-q")
    Path(".gitignore").write_text("/models\n")
    run(1.0)
    git("add", "-A")
    git("commit", "-q", "-m", "one")
    return tmp_path


def test_equal_bytes_differ_in_nothing(project):
    run(1.0)
    assert baseline.differing() == baseline.record() == []
    assert git("log", "--format=%s") == "one\n"


def test_other_bytes_from_the_same_sources_are_the_machines(project):
    run(1.1)
    assert baseline.differing() == ["models/pretrain", "reports/pretrain/metrics.json"]


@pytest.mark.parametrize("change", [{"lr": 0.2}, {"code": "9"}, {"data": "9"}])
def test_other_bytes_from_other_sources_are_the_users(project, change):
    run(1.1, **change)
    assert baseline.differing() is None
    with pytest.raises(
        UserError, match=r"dvc.lock: no baseline to record: the parameters, the code or the data are not"
    ):
        baseline.record()


def test_a_baseline_is_a_commit_of_lock_and_reports_only(project):
    (project / "notes.txt").write_text("mine")
    run(1.1)
    assert baseline.record() == ["models/pretrain", "reports/pretrain/metrics.json"]
    assert git("show", "--name-only", "--format=%s", "HEAD").split("\n\n") == [
        baseline.MESSAGE,
        "dvc.lock\nreports/pretrain/metrics.json\n",
    ]
    assert git("status", "--short") == "?? notes.txt\n"
    run(1.2, lr=0.2)  # from here on a change is compared with this machine
    assert baseline.differing() is None


def test_a_run_of_committed_parameters_is_a_baseline(tmp_path, monkeypatch):
    from dvc.repo import Repo

    def repro() -> None:
        with Repo(".") as repo:
            repo.reproduce()

    def commit(*paths: str) -> None:
        git("add", *paths)
        git("commit", "-q", "-m", "mine", "--", *paths)

    monkeypatch.chdir(tmp_path)
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@example.org")
    git("init", "-q")
    Repo.init(".").close()
    steps = {"cmd": "cat source.txt params.yaml > reports/a.json", "params": ["lr"], "deps": ["source.txt"]}
    stages = {"pretrain": steps | {"metrics": [{"reports/a.json": {"cache": False}}]}}
    files.write_text("dvc.yaml", yaml.safe_dump({"stages": stages}))
    files.write_text("params.yaml", "lr: 1\n")
    files.write_text("source.txt", "text")
    files.write_text("reports/.gitignore", "")
    repro()
    commit(".")
    files.write_text("params.yaml", "lr: 2\n")
    repro()
    with pytest.raises(UserError, match="no baseline to record"):
        baseline.record()  # of the user's own change
    commit("params.yaml")
    assert baseline.record() == ["reports/a.json"]
    assert git("status", "--short") == ""
    assert baseline.record() == []
    files.write_text("source.txt", "other")
    repro()
    with pytest.raises(UserError, match="no baseline to record"):
        baseline.record()
    commit("source.txt")
    files.write_text("source.txt", "a third")
    commit("source.txt")
    with pytest.raises(UserError, match="no baseline to record"):
        baseline.record()  # of what was committed, but has not run


def test_without_git_nothing_is_compared(project, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    run(1.1)
    assert baseline.differing() is None


def test_figures_that_were_not_computed_here_are_named(project):
    assert baseline.not_computed(("pretrain", "other")) == ["other"]
    files.write_json("reports/pretrain/metrics.json", {"loss": 5})  # not those of the last run
    assert baseline.not_computed(("pretrain",)) == ["pretrain"]
    run(1.0)
    assert baseline.not_computed(("pretrain",)) == []
    (project / "models/pretrain/weights").unlink()
    (project / "models/pretrain").rmdir()  # as in a fresh clone
    assert baseline.not_computed(("pretrain",)) == ["pretrain"]


def test_the_report_says_where_its_figures_are_from(project):
    from llm.cli import report

    files.write_json("reports/pretrain/metrics.json", {"train_loss": 1.0, "val_loss": 2.0, "val_bits_per_byte": 0.5})
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text())
    assert any(line.startswith("Not computed here, but from git: pretrain.") for line in report.lines())
    out = Path("reports/pretrain/metrics.json")
    lock = yaml.safe_load(Path("dvc.lock").read_text())
    lock["stages"]["pretrain"]["outs"][1]["md5"] = files.dvc_md5(out)
    Path("dvc.lock").write_text(yaml.safe_dump(lock))
    said = "1 outputs differ from the committed ones: this machine computes other bytes."
    assert any(line.startswith(said) for line in report.lines())
    git("commit", "-qam", "two")
    assert not [line for line in report.lines() if "differ" in line or "Not computed" in line]
