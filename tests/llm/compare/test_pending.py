"""What was edited and has not run yet is told, as parameters are, and is never called no difference."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llm.book.runs import with_python
from llm.cli.parser import main
from llm.common import files
from tests.llm.compare.conftest import git, new_repository

ROOT = Path(__file__).parents[3]
CODE = "import pathlib, stages.part\npathlib.Path('out').mkdir(exist_ok=True)\npathlib.Path('{}').write_text('x')\n"
CHECK = """
import pathlib
from llm.common import code
for name in ("one", "two"):
    stage = f"stages.{name}"
    text = code.listing(code.closures([stage], pathlib.Path.cwd())[stage])
    pathlib.Path(".check").mkdir(exist_ok=True)
    pathlib.Path(".check", name).write_text(text)
"""


def stage(name: str, *more: str) -> dict:
    deps = [f".check/{name}", "source.txt", *more]
    return {"cmd": f"python -m stages.{name}", "deps": deps, "outs": [f"out/{name}"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A committed run of two stages that read a source; only the first imports `stages.part`."""
    folder = tmp_path_factory.mktemp("pending")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        new_repository(patch)
        Path(".dvc").mkdir()
        shutil.copyfile(ROOT / ".dvc/config", ".dvc/config")
        check = {"cmd": "python check.py", "deps": ["stages"], "outs": [".check"]}
        last = {"cmd": "python -c 0", "deps": ["out"]}  # a folder of outputs is no source
        graph = {"check": check, "one": stage("one"), "two": stage("two"), "last": last}
        texts = {"check.py": CHECK, "source.txt": "abc", "params.yaml": "seed: 1\n", "stages/__init__.py": ""}
        texts |= {"stages/one.py": CODE.format("out/one"), "stages/part.py": "PART = 1\n"}
        texts |= {"stages/two.py": CODE.format("out/two").replace(", stages.part", "")}
        texts |= {"dvc.yaml": yaml.safe_dump({"stages": graph}), ".gitignore": "/out\n/.check\n/.work\n"}
        for name, text in texts.items():
            files.write_text(name, text)
        environment = {**with_python(), "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], check=True, env=environment)
        git("add", "-A")
        git("commit", "-q", "-m", "one")
    return folder


@pytest.fixture
def compare(made, tmp_path, monkeypatch, capsys):
    """Run `llm compare` in a copy; return what it printed, in one line."""
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")

    def told(*words: str) -> str:
        capsys.readouterr()
        main(["compare", *words])
        return " ".join(capsys.readouterr().out.split())

    return told


def test_what_has_run_gives_no_note(compare):
    files.write_text("stages/part.py", "# a comment\nPART = 1\n")
    assert "note:" not in compare()
    git("checkout", "-q", "stages")
    shutil.rmtree("out")  # as in a clone
    assert "Nothing differs" in compare()


def test_an_edited_source_is_named_with_its_stages(compare):
    files.write_text("source.txt", "abcd")
    for words in ([], ["workspace", "HEAD"], ["--html", "page.html"]):
        said = compare(*words)
        assert "note: workspace: source.txt has changed since the last run of one, two" in said
        assert "Nothing differs" not in said
    page = Path("page.html").read_text()
    assert "source.txt has changed" in page
    assert "Nothing differs" not in page
    assert "Nothing differs" in compare("HEAD", "main")


def test_a_source_that_is_gone_is_named(compare):
    Path("source.txt").unlink()
    assert "source.txt is gone since the last run of one, two" in compare()


def test_edited_code_is_told_with_the_stages_that_use_it(compare):
    files.write_text("stages/part.py", "PART = 2\n")
    assert "note: workspace: not run with this code yet: one Code" in compare()
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-a", "-m", "two")
    said = compare()
    assert "not run with this code yet: one" in said
    assert "Nothing differs" not in said
    files.write_text("stages/two.py", "PART = 2\n")
    assert "note: workspace: no stage has run with this code yet" in compare()


def test_code_that_is_no_python_is_named(compare):
    files.write_text("stages/part.py", "PART = \n")
    assert "not known which stages have run with this code: stages/part.py:1 is not Python" in compare()


def test_a_pipeline_that_dvc_cannot_read_is_compared_all_the_same(compare):
    files.write_text("dvc.yaml", json.dumps({"stages": {"one": 1}}))
    assert "HEAD" in compare()
