"""The code that a result depends on: the import closure of a module, with a hash of each file.

A hash covers the text without comments, docstrings and blank lines, so it is the same in every version of Python.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import sys
import tokenize
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from llm.common import files
from llm.common.errors import USAGE, UserError

ROOT = Path(__file__).parents[2]
PACKAGES = ("llm", "stages")
# These files cannot change a result, so an edit re-runs no stage.
EXEMPT = (
    *(f"llm/common/{name}.py" for name in ("dvc_cache", "dvc_lock", "errors", "git_here", "progress")),
    "llm/tracking/",
)
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")  # the fields of a statement that hold statements
KNOWN = Path(".work/code.json")
LISTS = ".check/"  # where the stage `check` writes the list of each stage


class Facts(NamedTuple):
    """What the lists need to know of a file."""

    text: str  # a hash of the whole text
    code: str  # a hash of 16 hex digits of the code; empty if there is none
    imports: list[str]  # modules, and names in them that may be modules


_known: dict[str, Facts] = {}  # by path; if the text is another one now, they are found anew


def recall(path: Path = KNOWN) -> None:
    """Take what an earlier run found out, so that only files that have changed since are read in full.

    A missing or damaged file is left alone.
    """
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["version"] == _version():
            _known.update({name: Facts(*facts) for name, facts in stored["files"].items() if name not in _known})


def remember(path: Path = KNOWN) -> None:
    """Write what this run has found out, for `recall`."""
    files.write_json(path, {"version": _version(), "files": _known})


def closures(modules: Iterable[str], root: Path = ROOT) -> dict[str, dict[str, str]]:
    """Return, for each module (such as `stages.pretrain`), path and hash of every file in PACKAGES that it imports.

    Indirect imports and imports inside functions count. Files without code and files in EXEMPT are left out.
    """
    codes: dict[Path, str] = {}
    following: dict[Path, set[Path]] = {}

    def reached(module: str) -> dict[str, str]:
        found: set[Path] = set()
        todo = _files(module, root)
        while todo:
            path = todo.pop()
            if path in found or _is_exempt(path):
                continue
            found.add(path)
            if path not in codes:
                codes[path], following[path] = _facts(path, root).code, imports(path, root)
            todo |= following[path]
        return {path.as_posix(): codes[path] for path in sorted(found) if codes[path]}

    return {module: reached(module) for module in modules}


def listing(hashes: dict[str, str]) -> str:
    """Return the hashes as text, one line for each file."""
    return "".join(f"{code}  {path}\n" for path, code in hashes.items())


def list_md5s(lists: Iterable[str], root: Path) -> dict[str, str]:
    """Return the md5 that each of these lists of code, such as `.check/pretrain`, would have now."""
    modules = {path: f"stages.{path.removeprefix(LISTS)}" for path in lists}
    found = closures(modules.values(), root)
    texts = {path: listing(found[module]).encode() for path, module in modules.items()}
    return {path: hashlib.md5(text, usedforsecurity=False).hexdigest() for path, text in texts.items()}


def loaded() -> dict[str, str]:
    """Return path and hash of every file in PACKAGES that this process has loaded, as `closure` does."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in (*PACKAGES, "__main__")]
    used = {Path(file).resolve() for module in modules if (file := getattr(module, "__file__", None))}
    paths = sorted(path.relative_to(ROOT) for path in used if ROOT in path.parents)
    ours = [path for path in paths if path.parts[0] in PACKAGES and not _is_exempt(path)]
    return {path.as_posix(): code for path in ours if (code := _facts(path, ROOT).code)}


def imports(path: Path, root: Path = ROOT) -> set[Path]:
    """Return the files in PACKAGES that the file `path` imports, with the `__init__.py` of their packages."""
    return {file for module in _facts(path, root).imports for file in _files(module, root)}


def code_of(source: str, tree: ast.Module | None = None) -> str:
    """Return `source` without comments, docstrings and blank lines; blank lines inside strings stay."""
    lines = source.split("\n")  # as tokenize counts them: splitlines() also ends one at U+2028
    nodes = [node for node in _statements(tree or ast.parse(source)) if isinstance(node, DOCUMENTED)]
    docstrings = {(node.body[0].lineno, node.body[0].col_offset) for node in nodes if ast.get_docstring(node)}
    code: set[int] = set()  # numbers of the lines to keep
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            lines[number - 1] = lines[number - 1][:column].rstrip()
        elif token.type not in LAYOUT and token.start not in docstrings:
            code |= set(range(token.start[0], token.end[0] + 1))
    return "\n".join(lines[number - 1] for number in sorted(code))


def _facts(path: Path, root: Path) -> Facts:
    with _named_errors(path):
        source = (root / path).read_text(encoding="utf-8")
    name, text = path.as_posix(), _hash(source)
    if name not in _known or _known[name].text != text:
        with _named_errors(path):
            tree = ast.parse(source)
        modules: set[str] = set()
        for node in _statements(tree):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        code = code_of(source, tree)
        ours = sorted(module for module in modules if module.partition(".")[0] in PACKAGES)
        _known[name] = Facts(text, code and _hash(code), ours)
    return _known[name]


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Raise UserError with the file, and the line, of code that is not Python."""
    try:
        yield
    except (SyntaxError, ValueError) as error:  # the latter: not UTF-8, or a null byte
        line = getattr(error, "lineno", None)
        what = f"not Python: {getattr(error, 'msg', error)}"
        raise UserError(f"{path}:{line}" if line else str(path), what, "correct it", USAGE) from None


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all statements in it, also those in functions. Expressions hold none."""
    yield node
    for field in BLOCKS:
        for inner in getattr(node, field, ()):
            yield from _statements(inner)


def _files(module: str, root: Path) -> set[Path]:
    """Return the file of a module and the `__init__.py` of its packages; an empty set outside PACKAGES."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return set()
    names = [Path(*parts).with_suffix(".py"), *(Path(*parts[: end + 1], "__init__.py") for end in range(len(parts)))]
    return {path for path in names if (root / path).is_file()}


def _is_exempt(path: Path) -> bool:
    return path.as_posix().startswith(EXEMPT)


def _version() -> str:
    """A hash of this module: another one may find other facts."""
    return _hash(Path(__file__).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
