"""The console commands `compare`, `experiments` and `report --html`, and their errors."""

from pathlib import Path

import pytest

from llm.cli.parser import main
from llm.common import files
from tests.llm.compare.conftest import experiment, git, write_run


@pytest.fixture
def console(project, capsys):
    """Run a command; return its exit code, and what it printed on both streams."""
    files.write_text("dvc.yaml", "stages: {}\n")
    git("add", "-A")
    git("commit", "-q", "-m", "dvc.yaml")
    capsys.readouterr()

    def run(*words: str) -> tuple[int, str, str]:
        try:
            main(words)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_compare_writes_a_page(console):
    write_run(wrong=range(10))
    code, out, _ = console("compare", "--html", "page.html")
    assert code == 0
    assert "HEAD" in out
    assert "written: page.html" in out
    assert Path("page.html").read_text().startswith("<!DOCTYPE html>")


def test_compare_takes_one_or_two_names(console):
    write_run(val_loss=9.0)
    assert "Nothing differs" in console("compare", "HEAD", "main")[1]
    assert "9.000" in console("compare", "HEAD~1")[1]


def test_an_unknown_name_is_a_wrong_command_line(console):
    code, _, err = console("compare", "workspac")
    assert code == 2
    assert err == (
        "error: command line: 'workspac' is no git revision and no experiment with results | "
        "fix: did you mean workspace?\n"
    )


def test_a_page_of_a_run(console):
    files.write_text("reports/pretrain/samples.csv", "step,text\n0,a\n")
    files.write_text("params.yaml", (Path(__file__).parents[3] / "params.yaml").read_text())
    files.write_json("reports/pretrain/metrics.json", {"train_loss": 1.0, "val_loss": 2.0, "val_bits_per_byte": 1.0})
    for name in ("finetune_spam", "finetune_instruct", "evaluate_with_judge"):
        Path(f"reports/{name}/metrics.json").unlink()
    code, out, err = console("report", "--html", "page.html")
    assert (code, err) == (0, "")
    assert "written: page.html" in out
    assert "Report of a run" in Path("page.html").read_text()


def test_the_folder_of_a_page_is_made(console):
    assert console("compare", "--html", "new/page.html")[0] == 0
    assert Path("new/page.html").is_file()


def test_experiments_of_other_commits_are_pointed_at(console):
    from dvc.repo import Repo

    Repo.init(".").close()
    git("add", "-A")
    git("commit", "-q", "-m", "dvc")
    assert "--all" not in console("experiments")[1]
    write_run(val_loss=1.0)
    experiment("mine")
    assert "--all" not in console("experiments")[1]
    git("commit", "-q", "--allow-empty", "-m", "later")
    assert "No experiments here. 1 other commit has experiments: `llm experiments --all`." in console("experiments")[1]
    assert "mine" in console("experiments", "--all")[1]
