"""The graph in dvc.yaml is the real graph: what a stage imports and reads is what it declares."""

import ast
import importlib
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from dvc.repo import Repo

from stages import tokenize

ROOT = Path(__file__).parents[2]

# Modules that cannot change a result, so an edit of theirs re-runs nothing.
EXEMPT = {
    "llm/errors.py": "says what went wrong and leaves",
    "llm/spool.py": "where runs wait for MLflow",
    "llm/tracking.py": "writes to MLflow only",
    "llm/progress.py": "draws bars",
    "llm/__init__.py": "a docstring",
}

# A module imports only from levels below its own (docs/architecture.md).
LEVELS = [
    {"dropout", "errors", "files", "head_loss", "params", "shapes"},
    {
        "batches",
        "judge_config",
        "judge_reference",
        "leakage",
        "lora",
        "model",
        "optim",
        "progress",
        "repair",
        "runtime",
        "stats",
        "tokenizer",
        "spool",
        "web",
    },
    {
        "ablation",
        "agreement",
        "classifier",
        "download",
        "generate",
        "gpt2",
        "history",
        "instructions",
        "judge_backends",
        "losses",
        "packing",
        "preflight",
        "recorder",
        "report",
        "spam",
        "spam_dataset",
        "tokens",
        "tracking",
    },
    {
        "checkpoint",
        "compiled",
        "instruction_dataset",
        "judge",
        "prefix",
        "tf_checkpoint",
        "token_windows",
        "train",
        "ui",
    },
    {"book_mode", "resume", "book.attention", "book.basics", "book.demos", "book.runs", "book.text"},
    {"book.measures.common", "book.measures.sources"},
    {
        "book.measures.chapter2",
        "book.measures.chapter3",
        "book.measures.chapter4",
        "book.measures.chapter5",
        "book.measures.chapter6",
        "book.measures.chapter7",
        "book.measures.reports",
    },
    {"book.measures.appendices"},
    {"book.ledger"},
    {"commands_models", "commands_project"},
    {"cli"},
    {"__main__"},
]
WITHIN_LEVEL_0 = {("files", "errors"), ("params", "errors"), ("params", "files")}
THE_BOOK = Path("llm/book")
THE_PROJECT = Path("llm/commands_project.py")  # alone may import llm/book and stages; the core never does


def module_file(module: str) -> Path | None:
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (ROOT / candidate).is_file() and candidate.parts[0] in ("llm", "stages"):
            return candidate
    return None


def imports(path: Path) -> set[Path]:
    """Files of ours that a file imports, anywhere in it; importing a module imports its package too."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    packages = {module.split(".")[0] for module in modules}
    return {file for module in modules | packages if (file := module_file(module))}


def closure(path: Path) -> set[str]:
    """The file and all of ours that it imports, directly or not."""
    found, todo = set(), [path]
    while todo:
        current = todo.pop()
        if str(current) not in found and str(current) not in EXEMPT:
            found.add(str(current))
            todo += imports(current)
    return found


def dvc_stages() -> list:
    with Repo(str(ROOT)) as repo:
        return [stage for stage in repo.index.stages if stage.name]


STAGES = dvc_stages()


def code(stage) -> Path:
    return Path("stages", stage.name.split("@")[0] + ".py")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_declared_code_is_the_import_closure(stage):
    declared = {dep.def_path for dep in stage.deps if dep.def_path.endswith(".py")}
    assert declared == closure(code(stage)), "\n".join(sorted(closure(code(stage))))


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_declared_params_are_the_sections_read(stage):
    schema = importlib.import_module(f"stages.{code(stage).stem}")
    name, _, item = stage.name.partition("@")
    declared = {key for dep in stage.deps if dep.__class__.__name__ == "ParamsDependency" for key in dep.params}
    if name == "check":
        assert declared == set()  # all of params.yaml
        return
    read = {field.name for field in fields(schema.Params)}
    read = getattr(schema, "SECTIONS", {}).get(item, read)  # where the items of one stage differ
    assert declared == {f"{field}.{item}" if field == name and item else field for field in read}


@pytest.mark.parametrize("item", tokenize.SECTIONS)
def test_an_item_of_tokenize_reads_the_sections_it_names(item):
    tree = ast.parse(inspect.getsource(getattr(tokenize, f"cut_{item}")))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    assert {node.attr for node in nodes if node.value.id == "params"} == tokenize.SECTIONS[item]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_runs_its_own_module_without_shell_syntax(stage):
    words = stage.cmd.split()
    assert words[:4] == ["exec", "python", "-m", f"stages.{code(stage).stem}"]
    assert not set(stage.cmd) & set("|;&<>$`\"'")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_stage_has_a_cached_output(stage):
    """Else it would not run on a fresh clone whose inputs rebuild to the committed bytes."""
    assert any(out.use_cache for out in stage.outs)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_reports_are_metrics_or_plots_outside_the_cache(stage):
    for out in stage.outs:
        if out.def_path.startswith("reports/"):
            assert out.metric or out.plot, out.def_path
            assert not out.use_cache, out.def_path


def waits_for_check(stage) -> bool:
    """Whether it cannot start, and so DVC cannot remove its outputs, before params.yaml has been checked."""
    return ".check/ok" in {dep.def_path for dep in stage.deps}


def test_every_stage_waits_for_check():
    assert [stage.name for stage in STAGES if not waits_for_check(stage)] == ["check"]  # which shows the rule can fail


def module_name(path: Path) -> str:
    return ".".join(path.relative_to("llm").with_suffix("").parts)


def test_modules_import_from_lower_levels_only():
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    for path in sorted((ROOT / "llm").rglob("*.py")):
        if path.stem == "__init__":
            continue
        name = module_name(path.relative_to(ROOT))
        for imported in imports(path.relative_to(ROOT)):
            if imported.parts[0] == "llm" and imported.stem != "__init__":
                pair = (name, module_name(imported))
                assert level[pair[0]] > level[pair[1]] or pair in WITHIN_LEVEL_0, pair
            assert imported.parts[0] == "llm" or path == ROOT / THE_PROJECT, f"{path.name} imports {imported}"


def importers_of_the_book(paths: list[Path]) -> set[str]:
    return {
        str(path)
        for path in paths
        if THE_BOOK not in path.parents and path != THE_PROJECT
        for imported in imports(path)
        if THE_BOOK in imported.parents
    }


def test_the_core_and_the_stages_do_not_import_the_book():
    paths = [path.relative_to(ROOT) for folder in ("llm", "stages") for path in (ROOT / folder).rglob("*.py")]
    assert len(paths) > 30
    assert importers_of_the_book(paths) == set()
    assert importers_of_the_book([Path("tests/llm/book/test_attention.py")]) != set()  # the rule can fail


def test_the_closure_follows_imports_inside_functions():
    assert "llm/tokens.py" in closure(Path("stages/tokenize.py"))
    assert "llm/model.py" not in closure(Path("stages/download.py"))


@pytest.mark.parametrize("stage", ["download", "tokenizer", "tokenize", "evaluate_with_judge", "pretrain"])
def test_only_stages_that_compute_tensors_load_torch(stage):
    """It takes a second, which a stage that cuts files has no use for."""
    asked = f"import sys, stages.{stage}; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == f"{stage == 'pretrain'}\n"
