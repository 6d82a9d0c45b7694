"""Nothing that is read can run code, no wait is without an end, and the floors that close known holes stay."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("llm", "stages", "benchmarks", "data") for path in (ROOT / folder).rglob("*.py"))

RUNS_CODE = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
HTTP = {"get", "post", "put", "patch", "delete", "head", "options", "request", "send"}
UNSAFE_YAML = {"unsafe_load", "unsafe_load_all", "full_load", "full_load_all"}


def dotted(node: ast.AST) -> str:
    """`a.b.c` of a name or of attributes; a call in between counts as what it calls."""
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(source: str) -> list[str]:
    """What a file does that it must not, as `line: what`."""
    tree = ast.parse(source)
    aliases: dict[str, str] = {}  # local name -> what was imported
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return sorted(f"{node.lineno}: {what}" for node in ast.walk(tree) for what in wrong(node, aliases))


def wrong(node: ast.AST, aliases: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        yield from (f"import of {name}" for name in names if name.split(".")[0] in RUNS_CODE)
    if not isinstance(node, ast.Call):
        return
    first, _, rest = dotted(node.func).partition(".")
    name = aliases.get(first, first) + (f".{rest}" if rest else "")
    receiver, _, method = name.rpartition(".")
    given = {keyword.arg: keyword.value for keyword in node.keywords}

    def says(key: str, value: bool) -> bool:
        return isinstance(given.get(key), ast.Constant) and given[key].value is value

    if name in ("eval", "exec", "builtins.eval", "builtins.exec", "os.system", "os.popen"):
        yield name
    if name in ("torch.load", "torch.serialization.load") and not says("weights_only", True):
        yield "torch.load without weights_only=True"
    if name in ("numpy.load", "np.load", "pandas.read_pickle", "pd.read_pickle") and not (
        method == "load" and ("allow_pickle" not in given or says("allow_pickle", False))
    ):
        yield f"{name} that reads pickles"
    if receiver == "yaml" and (method in UNSAFE_YAML or (method in ("load", "load_all") and is_pyyaml(node, aliases))):
        yield "yaml without SafeLoader"
    if "shell" in given and not says("shell", False):
        yield "shell=True"
    if method in ("extractall", "unpack_archive") or name == "unpack_archive":
        yield method or name
    if method in HTTP and (receiver == "requests" or "session" in receiver.lower()) and "timeout" not in given:
        yield "a request without timeout"


def is_pyyaml(call: ast.Call, aliases: dict[str, str]) -> bool:
    """Whether `yaml.load` lacks a SafeLoader; one argument alone may be a ruamel reader in a variable."""
    loaders = [*call.args[1:], *(keyword.value for keyword in call.keywords if keyword.arg == "Loader")]
    if loaders:
        return not dotted(loaders[0]).split(".")[-1].endswith("SafeLoader")
    return aliases.get("yaml", "yaml") == "yaml" and "YAML" not in {name.split(".")[-1] for name in aliases.values()}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_does_what_is_unsafe(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


def test_every_folder_of_code_is_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} >= {"llm", "stages", "benchmarks"}


@pytest.mark.parametrize(
    ("snippet", "what"),
    [
        ("import pickle", "import of pickle"),
        ("def f():\n    from marshal import loads", "import of marshal"),
        ("import shelve as s", "import of shelve"),
        ("import torch\ntorch.load(p)", "torch.load without weights_only=True"),
        ("import torch\ntorch.load(p, weights_only=False)", "torch.load without weights_only=True"),
        ("import torch as t\nt.load(p)", "torch.load without weights_only=True"),
        ("from torch import load\nload(p)", "torch.load without weights_only=True"),
        ("import numpy as np\nnp.load(p, allow_pickle=True)", "numpy.load that reads pickles"),
        ("import pandas as pd\npd.read_pickle(p)", "pandas.read_pickle that reads pickles"),
        ("import yaml\nyaml.load(t)", "yaml without SafeLoader"),
        ("import yaml\nyaml.load(t, Loader=yaml.Loader)", "yaml without SafeLoader"),
        ("import yaml\nyaml.load(t, yaml.FullLoader)", "yaml without SafeLoader"),
        ("import yaml\nyaml.unsafe_load(t)", "yaml without SafeLoader"),
        ("eval(t)", "eval"),
        ("exec(t)", "exec"),
        ("import os\nos.system(t)", "os.system"),
        ("import subprocess\nsubprocess.run(t, shell=True)", "shell=True"),
        ("import subprocess\nsubprocess.run(t, shell=s)", "shell=True"),
        ("archive.extractall(p)", "extractall"),
        ("import shutil\nshutil.unpack_archive(p)", "unpack_archive"),
        ("import requests\nrequests.get(u)", "a request without timeout"),
        ("from requests import get\nget(u)", "a request without timeout"),
        ("import requests\nrequests.Session().post(u)", "a request without timeout"),
        ("self.session.request('GET', u)", "a request without timeout"),
    ],
)
def test_the_lint_sees_what_is_unsafe(snippet, what):
    line = snippet.count("\n") + 1
    assert unsafe(snippet) == [f"{line}: {what}"]


@pytest.mark.parametrize(
    "snippet",
    [
        "import torch\ntorch.load(p, weights_only=True)",
        "import numpy as np\nnp.load(p)\nnp.load(p, allow_pickle=False)",
        "import yaml\nyaml.safe_load(t)\nyaml.load(t, Loader=yaml.CSafeLoader)",
        "from ruamel.yaml import YAML\nyaml = YAML(typ='safe')\nyaml.load(t)",
        "model.eval()\nsettings.get('timeout')",
        "import subprocess\nsubprocess.run([c], shell=False)",
        "import requests\nrequests.get(u, timeout=3)",
    ],
)
def test_the_lint_lets_pass_what_is_safe(snippet):
    assert unsafe(snippet) == []


# dvc.yaml as it is written: test_graph.py sees the commands after DVC has filled them in


def commands(text: str) -> list[str]:
    stages = YAML(typ="safe", pure=True).load(text)["stages"].values()
    found = [command for stage in stages for command in [(stage.get("do") or stage)["cmd"]]]
    return [line for command in found for line in ([command] if isinstance(command, str) else command)]


def is_plain(command: str) -> bool:
    """Whether nothing from params.yaml but the key of an item goes into the command, and no shell syntax."""
    return re.fullmatch(r"exec env PYTHONSAFEPATH= python -m stages\.[a-z0-9_]+([ _]\$\{key\})?", command) is not None


def test_commands_take_nothing_from_params_but_the_key():
    found = commands((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert len(found) >= 9
    assert [command for command in found if not is_plain(command)] == []


@pytest.mark.parametrize(
    "command",
    [
        "exec env PYTHONSAFEPATH= python -m stages.download ${download.corpus.source}",
        "exec env PYTHONSAFEPATH= python -m stages.download ${item}",
        "exec env PYTHONSAFEPATH= python -m stages.pretrain | tee log",
        "exec env PYTHONSAFEPATH= python -m stages.pretrain; true",
        "exec env PYTHONSAFEPATH= python -m stages.pretrain || true",
        "exec env PYTHONSAFEPATH= python -m stages.pretrain && true",
        "exec env PYTHONSAFEPATH= python -m stages.pretrain\ntrue",
        "exec env PYTHONSAFEPATH= python -m stages.pretrain $(true)",
        "sh -c stages.pretrain",
        "env PYTHONSAFEPATH= python -m stages.pretrain",
        "exec python -m stages.pretrain",
    ],
)
def test_the_lint_of_commands_sees_what_is_not_plain(command):
    text = f"stages:\n  one:\n    foreach: [a]\n    do:\n      cmd: {command!r}\n".replace("\\n", "\n\n")
    assert [is_plain(found) for found in commands(text)] == [False]


# Dependencies

FLOORS = {"torch": "2.10", "safetensors": "0.8", "mlflow": "3.11"}  # releases below them have known holes


def below_floor(requirements: list[str]) -> list[str]:
    """The packages whose floor is missing, or lets a release just below ours in."""
    found = {parsed.name: parsed.specifier for text in requirements for parsed in [Requirement(text)]}
    older = {"torch": "2.9.99", "safetensors": "0.7.99", "mlflow": "3.10.99"}
    return [name for name in FLOORS if name not in found or found[name].contains(older[name])]


def test_floors_of_dependencies_hold():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert below_floor(project["dependencies"]) == []


def test_pins_are_at_or_above_the_floors():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    for name, floor in FLOORS.items():
        assert Requirement(f"{name}>={floor}").specifier.contains(pins[name]), (name, pins[name])


@pytest.mark.parametrize("missing", FLOORS)
def test_a_lowered_floor_is_seen(missing):
    right = [f"{name}>={floor}" for name, floor in FLOORS.items()]
    assert below_floor(right) == []
    assert below_floor([text for text in right if not text.startswith(missing)]) == [missing]
    assert below_floor([missing if text.startswith(missing) else text for text in right]) == [missing]
    assert below_floor([f"{missing}>=0.1" if text.startswith(missing) else text for text in right]) == [missing]
