"""docs/architecture.md tells the truth: its layers are the ones that are checked, and its files are there."""

import ast
import re
from pathlib import Path

import pytest

from tests.contracts.test_graph import LAYERS, ROOT, files_of_ours

PAGE = (ROOT / "docs/architecture.md").read_text("utf-8")
TABLE = re.compile(r"^\| (\d+) \| (.+?) \| ", re.M)
MAP = PAGE.partition("## Where to find things")[2].partition("\n## ")[0]
POINTERS = re.findall(r"`([^`]+)`", MAP)
MOST = 320  # lines of a file
PACKAGES = sorted(path.parent.name for path in (ROOT / "llm").glob("*/__init__.py"))


def defined(path: Path) -> set[str]:
    """The functions and classes of a file."""
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_the_layers_are_the_checked_ones():
    told = {int(number): set(re.findall(r"`([^`]+)`", cell)) for number, cell in TABLE.findall(PAGE)}
    assert told == {number: {name.replace(".", "/") for name in names} for number, names in enumerate(LAYERS, start=1)}


@pytest.mark.parametrize("pointer", POINTERS)
def test_what_the_map_names_is_there(pointer):
    path, _, name = pointer.partition(":")
    assert (ROOT / path).exists()
    assert not name or name in defined(ROOT / path)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_introduced(package):
    introduced = ast.get_docstring(ast.parse((ROOT / "llm/__init__.py").read_text("utf-8"))) or ""
    assert re.search(rf"^{package}\b", introduced, re.M)


def test_the_questions_of_a_newcomer_are_answered():
    asked = {
        "attention": "llm/model/gpt.py",
        "the loss of instructions": "llm/train/losses.py",
        "OpenAI's checkpoint reader": "llm/weights/openai_checkpoint.py",
        "the judge's prompt": "llm/evaluate/judge_prompts.py",
        "Ctrl-C in a training": "llm/train/resume.py",
    }
    rows = dict(re.findall(r"^\| (.+?) \| `([^`:]+)", MAP, re.M))
    assert {question: rows.get(question) for question in asked} == asked


def test_files_are_short():
    lengths = {path: len((ROOT / path).read_text("utf-8").splitlines()) for path in files_of_ours()}
    assert {path: length for path, length in lengths.items() if length > MOST} == {}
