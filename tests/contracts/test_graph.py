"""The graph in dvc.yaml is the real graph: what a stage imports and reads is what it declares."""

import ast
import importlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from dvc.repo import Repo

from llm.common import params
from llm.common.code import imports
from stages import check

ROOT = Path(__file__).parents[2]
TOKENIZE = [name for name in check.STAGES if name.startswith("tokenize_")]

# A package imports from the layers below its own only (docs/architecture.md).
LAYERS = [
    {"llm.common"},
    {"llm.data", "llm.runtime", "llm.tracking"},
    {"llm.model", "llm.evaluate"},
    {"llm.weights"},
    {"llm.generate"},
    {"llm.train", "llm.serve"},
    {"llm.preference", "llm.reason"},
    {"stages", "llm.book", "llm.compare"},
    {"llm.plan"},
    {"llm.cli"},
]


def dvc_stages() -> list:
    with Repo(str(ROOT)) as repo:
        return [stage for stage in repo.index.stages if stage.name]


STAGES = dvc_stages()


def code(stage) -> Path:
    name, _, item = stage.name.partition("@")
    return Path("stages", f"tokenize_{item}.py" if name == "tokenize" else f"{name}.py")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_depends_on_the_list_of_its_own_code(stage):
    declared = {dep.def_path for dep in stage.deps if dep.def_path.split("/")[0] in (".check", "llm", "stages")}
    assert declared == ({"llm", "stages"} if stage.name == "check" else {f".check/{code(stage).stem}"})


def test_check_lists_the_code_of_every_stage():
    assert {code(stage).stem for stage in STAGES} == {"check", *check.STAGES}


def test_code_is_imported_by_name_only():
    """What `importlib` imports, no list of code can know."""
    for path in files_of_ours():
        words = {node.id for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Name)}
        assert not words & {"importlib", "__import__"}, path


OF_ITEMS = {"download", "tokenize", "import_gpt2", "reason_distill", "reason_models"}  # sections with a part for each


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_declared_params_are_the_sections_read(stage):
    schema = importlib.import_module(f"stages.{code(stage).stem}")
    name, _, item = stage.name.partition("@")
    declared = {key for dep in stage.deps if dep.__class__.__name__ == "ParamsDependency" for key in dep.params}
    if name == "check":
        assert declared == set()  # all of params.yaml
        return
    names = {field.name for field in fields(schema.Params)}
    inner = params.load(ROOT / "params.yaml")["tokenize"] if name in ("tokenize", "tokenizer") else {}
    also = getattr(schema, "ALSO", {})
    read = {also.get(key) or (f"tokenize.{key}" if key in inner else key) for key in names}
    assert declared == {f"{field}.{item}" if item and field in OF_ITEMS else field for field in read}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_runs_its_own_module_without_shell_syntax(stage):
    words = stage.cmd.split()
    assert words[:6] == ["exec", "env", "PYTHONSAFEPATH=", "python", "-m", f"stages.{code(stage).stem}"]
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
    return any(dep.def_path.startswith(".check/") for dep in stage.deps)


def test_every_stage_waits_for_check():
    assert [stage.name for stage in STAGES if not waits_for_check(stage)] == ["check"]  # which shows the rule can fail


def package(path: Path) -> str:
    """`llm.data`, `stages`, ...; `llm/__main__.py` belongs to the console."""
    if path == Path("llm/__main__.py"):
        return "llm.cli"
    return ".".join(path.parts[: 2 if path.parts[0] == "llm" else 1])


def wrong_imports(sources: dict[Path, set[Path]]) -> list[str]:
    """What imports from its own layer's neighbours or from a layer above, given the imports of each file."""
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    pairs = [(path, imported) for path, found in sources.items() for imported in found]
    return [
        f"{path} imports {imported}"
        for path, imported in pairs
        if imported != Path("llm/__init__.py")
        and package(path) != package(imported)
        and layer[package(path)] <= layer[package(imported)]
    ]


def files_of_ours() -> list[Path]:
    return sorted(path.relative_to(ROOT) for folder in ("llm", "stages") for path in (ROOT / folder).rglob("*.py"))


def test_packages_import_from_lower_layers_only():
    assert wrong_imports({path: imports(path) for path in files_of_ours() if path != Path("llm/__init__.py")}) == []


@pytest.mark.parametrize(
    ("path", "imported"),
    [("llm/common/files.py", "llm/data/spam.py"), ("llm/data/spam.py", "llm/tracking/ui.py")],
    ids=["upwards", "sideways"],
)
def test_an_import_from_the_same_layer_or_above_is_seen(path, imported):
    assert wrong_imports({Path(path): {Path(imported)}}) == [f"{path} imports {imported}"]


def test_every_package_has_a_layer():
    assert {package(path) for path in files_of_ours()} - {"llm.__init__.py"} == set().union(*LAYERS)


def test_packages_are_docstrings_only():
    """A package's `__init__.py` that imports would load torch for the stages that do without."""
    for path in (ROOT / "llm").rglob("__init__.py"):
        if path != ROOT / "llm/book/measures/__init__.py":
            assert [type(node) for node in ast.parse(path.read_text(encoding="utf-8")).body] == [ast.Expr], path


LIGHT = ["download", "tokenizer", *TOKENIZE, "evaluate_with_judge", "reason_problems"]


@pytest.mark.parametrize("stage", [*LIGHT, pytest.param("pretrain", marks=pytest.mark.slow)])
def test_only_stages_that_compute_tensors_load_torch(stage):
    """It takes a second, which a stage that cuts files has no use for."""
    asked = f"import sys, stages.{stage}; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == f"{stage == 'pretrain'}\n"


@pytest.mark.parametrize("module", ["stages.schema", "stages.check"])
def test_a_check_of_parameters_loads_neither_torch_nor_pandas(module):
    """They take seconds, at every edit of params.yaml."""
    asked = f"import sys, {module}; print({{'torch', 'pandas'}} & {{*sys.modules}})"
    told = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"
