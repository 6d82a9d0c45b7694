"""Profiles: YAML files in configs/ whose values replace those in params.yaml."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from llm.common import params, yaml_file
from llm.common.errors import USAGE, UserError, problems_of, raise_all
from llm.common.files import write_text

Changes = Mapping[str, Any]  # new values, nested as in params.yaml


def use(profile: Path | str, schema: type[Any], path: Path | str = params.PARAMS) -> None:
    """Apply a profile to params.yaml, after the profile that its `base` names. Raises UserError as `apply` does."""
    apply(read(Path(profile)), schema, path, origin=str(profile))


def read(profile: Path, above: tuple[Path, ...] = ()) -> list[Changes]:
    """Return the changes of the base profiles, then those of `profile`. `above` are the profiles based on this one."""
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
    """Apply the changes to params.yaml in order. Comments are kept.

    A null removes an item of a mapping whose keys the user chooses, such as `download`. Raises UserError and writes
    nothing if the result is invalid; `origin` names the source of the changes in the messages, unless params.yaml had
    the problem before.
    """
    before = params.load(path)  # raises for tags, which the reader below would accept
    yaml = yaml_file.keeping_comments()
    document = yaml_file.read(path, yaml)
    for change in changes:
        _merge(document, change, schema)
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    try:
        params.parse(schema, yaml_file.plain().load(buffer.getvalue()), origin)
    except UserError as error:
        raise_all(_at_their_source(problems_of(error), origin, schema, before, str(path)))
    write_text(path, buffer.getvalue())


def _at_their_source(
    problems: Sequence[UserError], origin: str, schema: type[Any], before: Changes, path: str
) -> list[UserError]:
    """The problems of the result; those that params.yaml has without the changes are told as its own."""
    own: dict[tuple[str, str], UserError] = {}
    try:
        params.parse(schema, before, path)
    except UserError as error:
        own = {(one.where.removeprefix(path), one.what): one for one in problems_of(error)}
    return [own.get((one.where.removeprefix(origin), one.what), one) for one in problems]


def _merge(document: Any, changes: Changes, kind: Any) -> None:
    """Merge `changes` into `document`, a mapping of the type `kind` in the schema."""
    free = get_origin(kind) is dict  # the user chooses the keys
    hints = get_type_hints(kind) if is_dataclass(kind) else {}
    for key, new in changes.items():
        old = document.get(key)
        if new is None and free:
            document.pop(key, None)
        elif isinstance(new, Mapping) and isinstance(old, Mapping):
            _merge(old, new, get_args(kind)[1] if free else hints.get(key))
        elif (names := _names(new)) and names == _names(old):  # merging entry by entry keeps the comments between them
            for old_entry, new_entry in zip(old, new, strict=True):
                for stale in set(old_entry) - set(new_entry):
                    del old_entry[stale]
                _merge(old_entry, new_entry, None)
        else:
            document[key] = copy.deepcopy(new)  # ruamel writes a repeated object as an alias


def _names(value: Any) -> list[Any]:
    """Return the `name` of each entry of a list of mappings; an empty list for other values."""
    if isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value):
        return [entry.get("name") for entry in value]
    return []
