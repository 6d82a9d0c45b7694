"""A state of the project is read from disk or from git."""

import csv
import shutil
from pathlib import Path

import pytest

from llm.common.errors import USAGE, UserError
from llm.compare.snapshot import changed_files, resolve
from tests.llm.compare.conftest import experiment, git, write_run


def test_a_revision_the_workspace_and_an_experiment_have_their_own_files(project):
    write_run(val_loss=3.0)
    experiment("worse")
    write_run(val_loss=4.0)
    found = {name: resolve(name).json("reports/pretrain/metrics.json") for name in ("HEAD", "worse", "workspace")}
    assert found == {"HEAD": {"val_loss": 2.0}, "worse": {"val_loss": 3.0}, "workspace": {"val_loss": 4.0}}
    assert resolve("HEAD").reports == resolve("workspace").reports != []


def test_a_missing_file_is_none(project):
    for name in ("HEAD", "workspace"):
        assert resolve(name).text("reports/none.json") is None
        assert resolve(name).rows("reports/none.csv") == []


def test_a_field_of_a_table_may_be_long(project):
    text = "a word " * 40_000
    Path("reports/long.csv").write_text(f"Label,Text\n0,{text}\n")
    csv.field_size_limit(131_072)  # Python's default
    assert resolve("workspace").rows("reports/long.csv") == [{"Label": "0", "Text": text}]


def test_a_project_in_a_folder_of_a_repository(project, monkeypatch):
    for path in ("reports", "params.yaml", "dvc.lock", "llm"):
        Path("inner").mkdir(exist_ok=True)
        git("mv", path, f"inner/{path}")
    git("commit", "-q", "-m", "two")
    monkeypatch.chdir("inner")
    assert resolve("HEAD").json("reports/pretrain/metrics.json") == {"val_loss": 2.0}
    assert "reports/pretrain/metrics.json" in resolve("HEAD").reports
    Path("llm/model.py").write_text("two\n")
    assert changed_files(resolve("HEAD"), resolve("workspace"), ["llm"]) == [("llm/model.py", "+1 -1")]


def test_an_unknown_name_is_refused_with_the_nearest(project):
    experiment("last-block")
    with pytest.raises(UserError, match=r"'last-blok' is no git revision .* did you mean last-block\?"):
        resolve("last-blok")


@pytest.mark.parametrize("name", ["--help", "-", ""])
def test_a_name_is_never_an_option_of_git(project, name):
    with pytest.raises(UserError, match="is no git revision"):
        resolve(name)


def test_without_git_only_the_workspace_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert resolve("workspace").reports == []
    with pytest.raises(UserError, match="not in a git repository"):
        resolve("HEAD")


def test_without_a_commit_only_the_workspace_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    with pytest.raises(UserError, match=r"'HEAD' is no git revision: there is no commit yet \| fix: `git add "):
        resolve("HEAD")


def test_of_two_experiments_of_one_name_that_on_head_counts(project):
    first = experiment("same")
    git("commit", "-q", "--allow-empty", "-m", "two")
    second = experiment("same")
    assert resolve("same").commit == second
    git("checkout", "-q", "HEAD~1")
    assert resolve("same").commit == first


def test_broken_reports_are_named(project):
    Path("reports/pretrain/metrics.json").write_text("{")
    Path("params.yaml").write_text("a: 1\nb: [\n")
    git("commit", "-q", "-a", "-m", "broken")
    for name, prefix in (("workspace", ""), ("HEAD", "HEAD: ")):
        with pytest.raises(UserError, match=rf"^{prefix}reports/pretrain/metrics.json: is not JSON"):
            resolve(name).json("reports/pretrain/metrics.json")
        with pytest.raises(UserError, match=rf"^{prefix}params.yaml:3: not plain YAML: ") as raised:
            _ = resolve(name).params
        assert raised.value.code == USAGE


@pytest.mark.parametrize("name", ["workspace", "HEAD"])
def test_a_data_set_that_the_cache_lacks_has_no_text(project, name):
    Path(".dvc").mkdir()
    Path(".dvc/config").touch()
    shutil.rmtree("data/spam")
    Path("data/spam.dvc").write_text(f"outs:\n- md5: {'a' * 32}.dir\n  hash: md5\n  path: spam\n")
    git("add", "-A")
    git("commit", "-q", "-m", "a fresh clone")
    assert resolve(name).data_text("data/spam/test.csv") is None


def test_files_that_changed(project):
    Path("llm/model.py").write_text("one\ntwo\nthree\n")
    Path("llm/new.py").write_text("new\n")
    head, here = resolve("HEAD"), resolve("workspace")
    assert changed_files(head, here, ["llm"]) == [("llm/model.py", "+2 -0"), ("llm/new.py", "new")]
    assert changed_files(here, head, ["llm"]) == [("llm/model.py", "+0 -2"), ("llm/new.py", "only in workspace")]
    git("commit", "-q", "-a", "-m", "two")
    assert changed_files(resolve("HEAD~1"), resolve("HEAD"), ["llm"]) == [("llm/model.py", "+2 -0")]
