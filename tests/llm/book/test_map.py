"""Every pointer of docs/book.md exists: files, names in them, commands, stages, parameters, rows of the ledger."""

import ast
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from llm.book import ledger
from llm.cli import parser
from llm.common import params, profiles
from llm.common.errors import UserError
from stages.schema import AllParams

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/book.md").read_text("utf-8")
POINTERS = sorted(set(re.findall(r"`([^`\n]+)`", PAGE)))
IDS = {row.id for row in ledger.read().rows} | {"ID"}  # `ledger:ID` explains the form
EXERCISES = {2: 2, 3: 3, 4: 3, 5: 6, 6: 3, 7: 4, "A": 4}
SECTIONS = {2: 8, 3: 6, 4: 7, 5: 5, 6: 8, 7: 9, "A": 9, "D": 4, "E": 4}


def names(path: Path) -> set[str]:
    """Functions, classes, their methods, and constants of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def set_parameter(words: str, folder: Path) -> str | None:
    """Why params.yaml does not take `key` or `key=value`."""
    key, _, value = words.partition("=")
    copy = folder / "params.yaml"
    shutil.copyfile(ROOT / "params.yaml", copy)
    current = params.load(copy)
    for part in key.split("."):
        if not isinstance(current, dict) or part not in current:
            return f"{key} is no parameter"
        current = current[part]
    changes = yaml.safe_load(value) if value else current
    for part in reversed(key.split(".")):
        changes = {part: changes}
    try:
        profiles.apply([changes], AllParams, copy)
    except UserError as error:
        return str(error)
    return None


def dead(pointer: str, folder: Path) -> str | None:
    """What is wrong with a pointer; None where it leads somewhere."""
    if pointer.startswith("ledger:"):
        return None if pointer.removeprefix("ledger:") in IDS else "no such row"
    if pointer.startswith("params:"):
        return set_parameter(pointer.removeprefix("params:"), folder)
    if pointer.startswith("python -m llm "):
        return dead_command(shlex.split(pointer)[3:])
    if pointer.startswith("dvc repro "):
        stages = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
        return None if pointer.split()[2] in stages else "no such stage"
    return dead_path(*pointer.partition(":")[::2])


def dead_command(words: list[str]) -> str | None:
    try:
        parser.parser().parse_args([*words, "answers.json"] if words == ["judge"] else words)
    except UserError as error:
        return str(error)
    return None


def dead_path(path: str, name: str) -> str | None:
    if not (ROOT / path).exists():
        return "no such file"
    return None if not name or name in names(ROOT / path) else "not in the file"


@pytest.mark.parametrize("pointer", POINTERS)
def test_a_pointer_leads_somewhere(pointer, tmp_path):
    assert dead(pointer, tmp_path) is None


@pytest.mark.parametrize(
    "pointer",
    [
        "llm/no_such.py",
        "llm/model/gpt.py:NoSuch",
        "llm/model/gpt.py:GPT.no_such",
        "configs/no-such.yaml",
        "ledger:no.such",
        "python -m llm no-such",
        "python -m llm generate --no-such",
        "dvc repro no_such",
        "params:pretrain.no_such",
        "params:finetune_spam.position=no_such",
    ],
)
def test_a_dead_pointer_is_found(pointer, tmp_path):
    assert dead(pointer, tmp_path) is not None


def missing(page: str, chapter: int | str, count: int) -> list[str]:
    labels = " ".join(line.split("|")[1] for line in page.split("\n") if line.startswith("| "))
    return [f"{chapter}.{n}" for n in range(1, count + 1) if not re.search(rf"\b{chapter}\.{n}\b", labels)]


@pytest.mark.parametrize(("chapter", "count"), SECTIONS.items())
def test_every_section_has_a_line(chapter, count):
    exercises = PAGE.index("## Appendix C")
    page = PAGE[:exercises] + PAGE[PAGE.index("\n## ", exercises) :]
    assert missing(page, chapter, count) == []


@pytest.mark.parametrize(("chapter", "count"), EXERCISES.items())
def test_every_exercise_has_a_line(chapter, count):
    page = PAGE[PAGE.index("## Appendix C") :].partition("\n## ")[0]
    assert missing(page, chapter, count) == []
    assert missing(page, chapter, count + 1) == [f"{chapter}.{count + 1}"]  # the control


def test_every_row_that_the_page_can_name_belongs_to_a_section_of_it():
    """Sections of the ledger and of the page are the same."""
    headings = set(re.findall(r"^## (Chapter \d|Appendix [A-E])", PAGE, re.M))
    of_rows = {row.section for row in ledger.read().rows}
    short = {h.replace("Chapter ", "ch0").replace("Appendix ", "app") for h in headings}
    assert of_rows == short - {"appC"}
