"""Profiles: YAML files in configs/ whose values are written over params.yaml."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from llm.common import params, yaml_file
from llm.common.errors import USAGE, UserError
from llm.common.files import write_text

Changes = Mapping[str, Any]  # new values, nested as in params.yaml


def use(profile: Path | str, schema: type[Any], path: Path | str = params.PARAMS) -> None:
    """Write the values of a profile over params.yaml, after those of the profile that its `base` names.

    `apply` says what a value does. Raises UserError.
    """
    apply(read(Path(profile)), schema, path, origin=str(profile))


def read(profile: Path, above: tuple[Path, ...] = ()) -> list[Changes]:
    """The changes of a profile, after those of its base; `above` are the profiles that build on this one."""
    changes = params.load(profile)
    base = changes.pop("base", None)
    if base is None:
        return [changes]
    above = (profile.resolve(), *above)
    if not isinstance(base, str) or (profile.parent / base).resolve() in above:
        what = f"{yaml_file.show(base)} is not the name of another profile"
        raise UserError(f"{profile}: base", what, "name a file in the same folder", USAGE)
    return [*read(profile.parent / base, above), changes]


def apply(
    changes: Sequence[Changes], schema: type[Any], path: Path | str = params.PARAMS, origin: str = "profile"
) -> None:
    """Write the changes over params.yaml in order. Comments are kept.

    A null removes an item of a mapping with free names, such as `download`. Raises UserError and writes nothing if the
    result is invalid; `origin` names the source of the changes in its messages.
    """
    params.load(path)  # refuses tags, which the reader below would keep
    yaml = yaml_file.keeping_comments()
    document = yaml_file.read(path, yaml)
    for change in changes:
        _merge(document, change, schema)
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    params.parse(schema, yaml_file.plain().load(buffer.getvalue()), origin)
    write_text(path, buffer.getvalue())


def _merge(document: Any, changes: Changes, kind: Any) -> None:
    """Write `changes` into `document`, a mapping whose type in the schema is `kind`."""
    free = get_origin(kind) is dict  # the user chooses the keys
    hints = get_type_hints(kind) if is_dataclass(kind) else {}
    for key, new in changes.items():
        old = document.get(key)
        if new is None and free:
            document.pop(key, None)
        elif isinstance(new, Mapping) and isinstance(old, Mapping):
            _merge(old, new, get_args(kind)[1] if free else hints.get(key))
        elif (names := _names(new)) and names == _names(old):  # merging keeps the comments between the entries
            for old_entry, new_entry in zip(old, new, strict=True):
                for stale in set(old_entry) - set(new_entry):
                    del old_entry[stale]
                _merge(old_entry, new_entry, None)
        else:
            document[key] = copy.deepcopy(new)  # YAML would write one object in two places as an alias


def _names(value: Any) -> list[Any]:
    """The `name` of each entry of a list of mappings; empty for any other value."""
    if isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value):
        return [entry.get("name") for entry in value]
    return []
