"""The map of the book: every printed name is in it, and every pointer leads to something that exists.

Pointers are in docs/book.md, and in the docstrings of llm/book/ as lines `name -> file:name`. They name files, names in
files, commands, stages, parameters and rows of the ledger.
"""

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
CHAPTERS = sorted((ROOT / "llm/book").glob("ch0?.py"))
LINE = re.compile(r"^(\w+) -> (\S+)$", re.M)
ELSEWHERE = {path.stem: dict(LINE.findall(ast.get_docstring(ast.parse(path.read_text())) or "")) for path in CHAPTERS}
POINTERS = sorted(
    set(re.findall(r"`([^`\n]+)`", PAGE)) | {pointer for lines in ELSEWHERE.values() for pointer in lines.values()}
)
ROWS = {
    name: (here, pipeline)
    for name, here, pipeline in re.findall(r"^\| (\w+) \| (.+) \| (.+) \|$", PAGE.partition("\n## Chapter")[0], re.M)
}
PRINTED = {
    "ch02": "SimpleTokenizerV1 SimpleTokenizerV2 GPTDatasetV1 create_dataloader_v1",
    "ch03": "SelfAttention_v1 SelfAttention_v2 CausalAttention MultiHeadAttentionWrapper MultiHeadAttention",
    "ch04": "GPT_CONFIG_124M DummyGPTModel LayerNorm GELU FeedForward ExampleDeepNeuralNetwork TransformerBlock"
    " GPTModel generate_text_simple",
    "ch05": "text_to_token_ids token_ids_to_text calc_loss_batch calc_loss_loader evaluate_model"
    " generate_and_print_sample train_model_simple softmax_with_temperature print_sampled_tokens generate assign"
    " load_weights_into_gpt",
    "ch06": "create_balanced_dataset random_split SpamDataset calc_accuracy_loader train_classifier_simple"
    " classify_review",
    "ch07": "download_and_load_file format_input InstructionDataset custom_collate_fn check_if_running query_model"
    " generate_model_scores",
    "appendix_a": "NeuralNetwork ToyDataset compute_accuracy",
    "": "find_highest_gradient train_model LoRALayer LinearWithLoRA replace_linear_with_lora",  # appendices D and E
}
IDS = {row.id for row in ledger.read().rows} | {"ID"}  # `ledger:ID` explains the form
EXERCISES = {2: 2, 3: 3, 4: 3, 5: 6, 6: 3, 7: 4, "A": 4}
SECTIONS = {2: 8, 3: 6, 4: 7, 5: 5, 6: 8, 7: 9, "A": 9, "D": 4, "E": 4}


def names(path: Path) -> set[str]:
    """Functions, classes, methods and constants of a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def set_parameter(words: str, folder: Path) -> str | None:
    """Why params.yaml does not accept `key` or `key=value`; None if it does."""
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
    """What is wrong with a pointer; None if it leads to something."""
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


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, line in PRINTED.items() for name in line.split()]
)
def test_a_printed_name_is_in_the_table_and_in_its_chapter(module, name):
    here, pipeline = ROWS[name]
    if not module:
        assert "`" in pipeline
        return
    defined = name in names(ROOT / f"llm/book/{module}.py")
    assert here == (f"`llm/book/{module}.py:{name}`" if defined else "-")
    assert defined != (name in ELSEWHERE.get(module, {}))  # the docstring says where the others are
    if not defined:
        assert f"`{ELSEWHERE[module][name]}`" in pipeline


def test_docstrings_point_from_printed_names_only():
    assert {(module, name) for module, lines in ELSEWHERE.items() for name in lines} <= {
        (module, name) for module, line in PRINTED.items() for name in line.split()
    }


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


def test_the_page_has_a_section_for_every_chapter_of_the_ledger():
    """The ledger and the page have the same chapters."""
    headings = set(re.findall(r"^## (Chapter \d|Appendix [A-E])", PAGE, re.M))
    of_rows = {row.section for row in ledger.read().rows}
    short = {h.replace("Chapter ", "ch0").replace("Appendix ", "app") for h in headings}
    assert of_rows == short - {"appC"}
