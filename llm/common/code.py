"""The code that a result depends on: the import closure of a module, with a hash of each file.

A hash covers the text without comments, docstrings and blank lines, so it is the same in every version of Python.
"""

from __future__ import annotations

import ast
import hashlib
import io
import sys
import tokenize
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("llm", "stages")
# These files cannot change a result, so an edit re-runs no stage.
EXEMPT = ("llm/common/errors.py", "llm/common/progress.py", "llm/tracking/")
LAYOUT = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def closure(module: str, root: Path = ROOT) -> dict[str, str]:
    """Return path and hash of every file in PACKAGES that `module` (such as `stages.pretrain`) imports, in order.

    Indirect imports and imports inside functions count. Files without code and files in EXEMPT are left out.
    """
    found: set[Path] = set()
    todo = _files(module, root)
    while todo:
        path = todo.pop()
        if path not in found and not _is_exempt(path):
            found.add(path)
            todo |= imports(path, root)
    return _hashes(found, root)


def listing(hashes: dict[str, str]) -> str:
    """Return the hashes as text, one line for each file."""
    return "".join(f"{code}  {path}\n" for path, code in hashes.items())


def loaded() -> dict[str, str]:
    """Return path and hash of every file in PACKAGES that this process has loaded, as `closure` does."""
    modules = [module for name, module in sys.modules.items() if name.partition(".")[0] in (*PACKAGES, "__main__")]
    files = {Path(file).resolve() for module in modules if (file := getattr(module, "__file__", None))}
    paths = {path.relative_to(ROOT) for path in files if ROOT in path.parents}
    return _hashes({path for path in paths if path.parts[0] in PACKAGES and not _is_exempt(path)}, ROOT)


@cache
def imports(path: Path, root: Path = ROOT) -> set[Path]:
    """Return the files in PACKAGES that the file `path` imports, with the `__init__.py` of their packages."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {file for module in modules for file in _files(module, root)}


@cache
def code_of(source: str) -> str:
    """Return `source` without comments, docstrings and blank lines; blank lines inside strings stay."""
    lines = source.split("\n")  # as tokenize counts them: splitlines() also ends one at U+2028
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED) and ast.get_docstring(node))
    docstrings = {(node.body[0].lineno, node.body[0].col_offset) for node in nodes}
    code: set[int] = set()  # numbers of the lines to keep
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            lines[number - 1] = lines[number - 1][:column].rstrip()
        elif token.type not in LAYOUT and token.start not in docstrings:
            code |= set(range(token.start[0], token.end[0] + 1))
    return "\n".join(lines[number - 1] for number in sorted(code))


def _files(module: str, root: Path) -> set[Path]:
    """Return the file of a module and the `__init__.py` of its packages; an empty set outside PACKAGES."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return set()
    names = [Path(*parts).with_suffix(".py"), *(Path(*parts[: end + 1], "__init__.py") for end in range(len(parts)))]
    return {path for path in names if (root / path).is_file()}


def _is_exempt(path: Path) -> bool:
    return path.as_posix().startswith(EXEMPT)


def _hashes(paths: set[Path], root: Path) -> dict[str, str]:
    """Return a hash of 16 hex digits for each file that has code, sorted by path."""
    codes = {path.as_posix(): code_of((root / path).read_text(encoding="utf-8")) for path in sorted(paths)}
    return {path: hashlib.sha256(code.encode()).hexdigest()[:16] for path, code in codes.items() if code}
