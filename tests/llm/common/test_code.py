"""Code lists: which edits change them, and in which stages."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm.common import code
from llm.common.errors import UserError
from stages.check import STAGES, changes

ROOT = Path(__file__).parents[3]
# One module of each package and the stages that import it.
REWARDED = {"reason_rl", "reason_distill"}  # these sample answers too
TRAINING = {
    *("pretrain", "finetune_spam", "finetune_instruct", "preference_base", "finetune_dpo"),
    *("reason_sft", "reason_control", *REWARDED),
}
MODULES = {
    "llm/common/params.py": set(STAGES),
    "llm/data/spam.py": {"tokenize_spam"},
    "llm/data/class_splits.py": {"tokenize_spam", "finetune_spam"},
    "llm/runtime/device.py": {*TRAINING, "respond", "reason_evaluate"},
    "llm/model/lora.py": {*TRAINING, "respond", "reason_evaluate"},
    "llm/evaluate/accuracy.py": {"finetune_spam"},
    "llm/weights/openai_checkpoint.py": {"import_gpt2"},
    "llm/generate/decoding.py": {"pretrain", "respond", "finetune_dpo", "reason_evaluate", *REWARDED},
    "llm/train/loop.py": TRAINING,
    "stages/tokenize_corpus.py": {"tokenize_corpus"},
    "llm/tracking/tracker.py": set(),
    "llm/book/ch02.py": set(),
    "llm/compare/charts.py": set(),
    "llm/serve/engine.py": set(),
    "llm/cli/report.py": set(),
    "llm/preference/loss.py": {"finetune_dpo"},
    "llm/reason/grpo.py": {"reason_rl"},
    "llm/plan/scale.py": set(),
}
SOURCE = '''"""What it is."""

import math  # of Python

# Why.
def f(x: str) -> str:
    """What it does."""
    text = """# no comment

    a line"""
    return text + "#" + x  # trailing


class A:
    """A docstring.

    With lines.
    """

    size = 1
'''
CODE = '''import math
def f(x: str) -> str:
    text = """# no comment

    a line"""
    return text + "#" + x
class A:
    size = 1'''


def test_code_has_no_comments_docstrings_or_blank_lines():
    assert code.code_of(SOURCE) == CODE


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# Why.", "# Because.", True),
        ("# trailing", "# at the end", True),
        ("What it does.", "What it did.", True),
        ("With lines.\n", "With\n    more lines.\n", True),
        ("size = 1", "size = 2", False),
        ("# no comment", "# a text", False),
        ("comment\n\n    a", "comment\n    a", False),
        ("    size", "    pass\n    size", False),
    ],
)
def test_only_edits_of_code_change_it(old, new, same):
    edited = SOURCE.replace(old, new)
    assert edited != SOURCE
    assert (code.code_of(edited) == CODE) is same


def test_a_docstring_on_a_line_with_code_counts():
    assert code.code_of('"""a"""; x = 1\n') != code.code_of('"""a"""; x = 2\n')


def test_a_string_may_hold_line_ends_of_unicode():
    source = 'x = "\u2028"  # a comment\n\ny = "\x0c"\nz = 1\n'
    assert code.code_of(source) == 'x = "\u2028"\ny = "\x0c"\nz = 1'


def test_a_string_that_is_not_a_docstring_counts():
    assert code.code_of('x = 1\n"""a"""\n') != code.code_of('x = 1\n"""b"""\n')


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (b"x = 1\ndef broken(:\n", "llm/common/new.py:2: not Python: invalid syntax"),
        (b"x = '\xe9'\n", "llm/common/new.py: not Python: 'utf-8' codec can't decode"),
        (b"x = 1\0\n", "llm/common/new.py"),
    ],
)
def test_code_that_is_not_python_is_named(source, said, tmp_path):
    (tmp_path / "llm/common").mkdir(parents=True)
    (tmp_path / "llm/common/new.py").write_bytes(source)
    with pytest.raises(UserError) as error:
        code.closures(["llm.common.new"], tmp_path)
    assert str(error.value).startswith(said)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    for name in ("llm", "stages"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def lists(folder: Path) -> dict[str, dict[str, str]]:
    found = code.closures([f"stages.{stage}" for stage in STAGES], folder)
    return {stage: found[f"stages.{stage}"] for stage in STAGES}


def test_each_package_has_a_module_in_the_list():
    packages = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "llm").glob("*/*.py")}
    assert {str(Path(path).parent) for path in MODULES} == packages | {"stages"}


@pytest.mark.parametrize(
    "path", [pytest.param(one, marks=[pytest.mark.slow] * (n % 4 > 0)) for n, one in enumerate(MODULES)]
)
def test_an_edit_changes_the_lists_of_the_stages_that_import_the_module(path, copy):
    before, text = lists(copy), (copy / path).read_text()
    try:
        (copy / path).write_text(text.replace('"""', '"""Edited. ', 1) + "\n# a comment\n")
        assert lists(copy) == before
        (copy / path).write_text(text + "\nADDED = 1\n")
        after = lists(copy)
    finally:
        (copy / path).write_text(text)
    changed = [stage for stage in STAGES if after[stage] != before[stage]]
    assert set(changed) == MODULES[path]
    expected = [f"code changed: {path} -> {', '.join(changed)}"] if changed else []
    assert list(changes(before, after)) == expected


@pytest.mark.parametrize("stage", ["tokenize_spam", pytest.param("finetune_spam", marks=pytest.mark.slow)])
def test_the_loaded_files_of_a_stage_are_those_in_its_list(stage):
    """DVC compares the list; a saved training state compares the loaded files."""
    script = f"import stages.{stage}; from llm.common import code; print(code.listing(code.loaded()), end='')"
    printed = subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True)
    listed = code.listing(code.closures([f"stages.{stage}"])[f"stages.{stage}"])
    assert set(listed.splitlines()) <= set(printed.splitlines())
    extra = {line.split()[1] for line in set(printed.splitlines()) - set(listed.splitlines())}
    assert extra <= {"llm/common/code.py"}


@pytest.fixture
def known(monkeypatch):
    """What this process knows of files, empty at first."""
    monkeypatch.setattr(code, "_known", {})
    return code._known


def test_what_was_found_out_is_remembered(known, copy, tmp_path):
    path, before = tmp_path / "code.json", code.closures(["stages.pretrain"], copy)
    facts = dict(known)
    code.remember(path)
    known.clear()
    code.recall(path)
    assert known == facts
    assert code.closures(["stages.pretrain"], copy) == before


def test_of_an_edited_file_nothing_old_is_taken(known, copy, tmp_path):
    code.closures(["stages.pretrain"], copy)
    code.remember(path := tmp_path / "code.json")
    known.clear()
    code.recall(path)
    text = (copy / "llm/train/optim.py").read_text()
    try:
        (copy / "llm/train/optim.py").write_text(text + "\nfrom llm.data import spam\n")
        assert "llm/data/spam.py" in code.closures(["stages.pretrain"], copy)["stages.pretrain"]
    finally:
        (copy / "llm/train/optim.py").write_text(text)
    assert "llm/data/spam.py" not in code.closures(["stages.pretrain"], copy)["stages.pretrain"]


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"version": "0", "files": {}}', '{"version": 1}', "\0"])
def test_a_damaged_memory_or_that_of_another_version_is_left_alone(damage, known, tmp_path):
    (tmp_path / "code.json").write_text(damage)
    code.recall(tmp_path / "code.json")
    code.recall(tmp_path / "missing.json")
    assert known == {}


@pytest.mark.parametrize("stored_files", [{"llm/a.py": ["0", "0", []], "llm/b.py": ["0"]}, {"llm/a.py": 1}, [], None])
def test_damaged_facts_are_not_taken(stored_files, known, tmp_path):
    stored = {"version": code._version(), "files": stored_files}
    (tmp_path / "code.json").write_text(json.dumps(stored))
    code.recall(tmp_path / "code.json")
    assert known == {}
