"""docs/your-data.md: its commands and parameters, as printed, in a copy of the project with tiny settings on top."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.page import TINY, Command, Terminal, page, read
from tests.forks import warm
from tests.stages.project import Project

PAGE = page("your-data.md")


def section(number: int) -> tuple[dict[str, Any], list[Command]]:
    """The parameters and the commands of an example."""
    text = re.split(r"^## ", PAGE, flags=re.M)[number]
    assert text.startswith(f"{number}. ")
    return read(text)


def execute(project: Project, command: Command) -> str:
    """Run a command of the page there; return its output, of the programs other than `llm` with its messages."""
    with Terminal(project, python=warm()) as terminal:
        done = terminal.run(command)
    return done.stdout if command.words[0] == "llm" else done.stdout + done.stderr


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small project with the data of the page."""
    made = Project.small(tmp_path_factory.mktemp("base") / "project", **TINY)
    _, commands = read(PAGE.partition("\n## ")[0])
    for command in commands:
        execute(made, command)
    return made


def example(base: Project, folder: Path, number: int) -> tuple[Project, list[Command]]:
    project = base.copy(folder / "project")
    values, commands = section(number)
    project.set(**values)
    project.set(**TINY)
    return project, commands


def test_the_data_are_the_same_every_time(tmp_path: Path) -> None:
    made = Project.create(tmp_path / "project")
    for name in ("one", "two"):
        made.run("data.sample.your_data", name)
    first, second = (
        {str(path.relative_to(made.folder / name)): path.read_bytes() for path in (made.folder / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert first == second
    assert {Path(name).suffix for name in first if name.startswith("garden/")} == {".md", ".txt", ".jsonl"}
    reviews = first["reviews.csv"].decode().splitlines()
    assert len(set(reviews)) == len(reviews) == 1001


@pytest.mark.slow
def test_a_folder_of_text_goes_to_generate(base: Project, tmp_path: Path) -> None:
    project, (repro, generate) = example(base, tmp_path, 1)
    assert generate.words[:2] == ("llm", "generate")
    execute(project, repro)
    report = json.loads((project.folder / "reports/tokenize/corpus.json").read_text())
    assert report["files"] == 11
    assert execute(project, generate).startswith(generate.words[2])


@pytest.mark.slow
def test_a_csv_of_four_classes_goes_to_classify(base: Project, tmp_path: Path) -> None:
    project, (repro, classify) = example(base, tmp_path, 2)
    told = execute(project, repro)
    found = [line for line in repro.shown if line.startswith("tokenize@spam: read as")]
    assert found
    assert all(line.removesuffix("...") in told for line in found)
    answers = [line.split("\t") for line in execute(project, classify).splitlines()]
    assert [answer[-1] for answer in answers] == list(classify.words[2:])
    assert {answer[0] for answer in answers} <= {"all bad", "all good", "food", "service"}
    for answer, shown in zip(answers, classify.shown, strict=True):
        names = [part.partition("=")[0] for part in shown.split("\t")[1:-1]]
        assert [part.partition("=")[0] for part in answer[1:-1]] == names


@pytest.mark.slow
def test_german_chats_go_to_chat(base: Project, tmp_path: Path) -> None:
    project, (repro, chat) = example(base, tmp_path, 3)
    told = execute(project, repro)
    found = [line for line in repro.shown if line.startswith("tokenize@instructions")]
    assert found
    assert all(line in told for line in found)
    assert chat.typed.count("\n") == 2
    assert len(execute(project, chat).splitlines()) >= 2
    config = json.loads((project.folder / "models/instruct/config.json").read_text())
    assert "Antwort:" in section(3)[0]["finetune_instruct"]["prompt"]["answer"]
    assert "Antwort:" in json.dumps(config)
