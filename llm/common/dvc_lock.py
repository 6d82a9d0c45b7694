"""dvc.lock: how each stage last ran."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from llm.common import yaml_file
from llm.common.errors import USAGE, UserError
from llm.common.files import read_text
from llm.common.params import PARAMS

LOCK = Path("dvc.lock")
REPAIR = "`llm repair` moves it away, then `llm repro` takes the stages from DVC's cache"
Stages = dict[str, Mapping[str, Any]]


def read(path: Path = LOCK) -> Stages:
    """The stages in a dvc.lock; none if it is missing. Raises UserError as `parse` does."""
    return parse(read_text(path), str(path)) if path.is_file() else {}


def parse(text: str, where: str, fix: str = REPAIR) -> Stages:
    """The stages in the text of a dvc.lock. Raises UserError with the line or the stage that is wrong, and `fix`."""
    try:
        found = yaml_file.parse_plain(text, where).get("stages") or {}
    except UserError as error:
        raise UserError(error.where, error.what, fix, USAGE) from None
    if not isinstance(found, Mapping):
        raise UserError(f"{where}: stages", f"{yaml_file.show(found)} is not a section", fix, USAGE)
    for name, entry in found.items():
        if not is_entry(entry):
            what = f"{yaml_file.show(entry)} does not record how a stage ran"
            raise UserError(f"{where}: stages.{name}", what, fix, USAGE)
    return {str(name): entry for name, entry in found.items()}


def is_entry(entry: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether it has the form in which DVC records a run: files with their paths, and parameters of files."""
    if not isinstance(entry, Mapping):
        return False
    files, params = [entry.get(part) or [] for part in ("deps", "outs")], entry.get("params") or {}
    if not all(isinstance(each, list) for each in files) or not isinstance(params, Mapping):
        return False
    paths = [one.get("path") if isinstance(one, Mapping) else None for each in files for one in each]
    values = all(isinstance(one, Mapping) for one in params.values())
    return values and all(isinstance(path, str) for path in paths)


def hashes(entry: Mapping[str, Any], part: str) -> dict[str, str]:
    """The md5s of the `deps` or the `outs` of a run, by path."""
    return {one["path"]: str(one.get("md5")) for one in entry.get(part) or []}


def parameters(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a run, under the keys that dvc.yaml has: sections, or dotted keys."""
    found: dict[str, Any] = (entry.get("params") or {}).get(str(PARAMS)) or {}
    return found


def lookup(values: Any, key: str, otherwise: Any = None) -> Any:
    """The value at a dotted key. dvc.lock may have joined sections with dots; no name has one in it."""
    if not isinstance(values, Mapping):
        return otherwise
    if key in values:
        return values[key]
    for name, inner in values.items():
        if key.startswith(f"{name}."):
            return lookup(inner, key.removeprefix(f"{name}."), otherwise)
    return otherwise
