"""params.yaml as typed, frozen dataclasses; every problem found is reported at once.

ruamel.yaml (YAML 1.2) reads and writes the file because DVC does: PyYAML takes DVC's own `5e-05` for a string.
"""

from __future__ import annotations

import difflib
import io
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from llm.errors import USAGE, UserError, raise_all
from llm.files import read_text, write_text

PARAMS = Path("params.yaml")
T = TypeVar("T")

# What a config's `problems()` yields: the field, what is wrong with it (with the value), and the fix.
Problem = tuple[str, str, str]


def read(schema: type[T], path: Path | str = PARAMS) -> T:
    """Read the sections that `schema` has fields for; other top-level sections belong to other stages.

    Raises UserError (all problems at once): unknown, missing, mistyped and contradictory keys.
    """
    sections = load(path)
    wanted = {field.name for field in fields(schema)}  # type: ignore[arg-type]
    return parse(schema, {key: value for key, value in sections.items() if key in wanted}, str(path))


def load(path: Path | str = PARAMS) -> dict[str, Any]:
    """Read a YAML file as plain data; duplicate keys, tags and anything but a mapping are refused."""
    value = _load(YAML(typ="safe", pure=True), path)
    return dict(value)


def parse(schema: type[T], value: Any, path: str = str(PARAMS)) -> T:
    """Turn plain data into `schema`, a dataclass; `path` names the file in messages."""
    problems: list[UserError] = []
    parsed = _parse(schema, value, "", problems, path)
    raise_all(problems)
    return parsed  # type: ignore[no-any-return]


def overlay(changes: Path | str, schema: type[Any], path: Path | str = PARAMS) -> None:
    """Write the values of the file `changes` over params.yaml; comments stay, unknown keys are refused.

    A null removes an entry of a mapping whose keys are free (an item of `download`). Nothing is written unless
    the result is valid as a whole.
    """
    apply(load(changes), schema, path, origin=str(changes))


def apply(changes: Mapping[str, Any], schema: type[Any], path: Path | str = PARAMS, origin: str = "overlay") -> None:
    """As `overlay`, with the changes given as nested mappings."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = _load(yaml, path)
    _merge(document, changes)
    buffer = io.StringIO()
    yaml.dump(document, buffer)
    text = buffer.getvalue()
    parse(schema, YAML(typ="safe", pure=True).load(text), origin)
    write_text(path, text)


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of a dataclass by dotted key, as MLflow logs them."""
    if is_dataclass(config):
        items: Iterator[tuple[str, Any]] = ((field.name, getattr(config, field.name)) for field in fields(config))
    elif isinstance(config, Mapping):
        items = iter(config.items())
    elif isinstance(config, tuple) and any(is_dataclass(item) for item in config):
        items = ((str(index), item) for index, item in enumerate(config))
    else:
        return {prefix: config}
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves |= flat(value, f"{prefix}.{key}" if prefix else key)
    return leaves


def positive(config: Any, *names: str) -> Iterator[Problem]:
    """Problems of the named number fields that must be above zero (None is let through)."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            yield name, f"{value} is not above 0", "give a number above 0"


def at_least_zero(config: Any, *names: str) -> Iterator[Problem]:
    """Problems of the named number fields that must not be negative (None is let through)."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 0:
            yield name, f"{value} is negative", "give 0 or more"


def fraction(config: Any, *names: str, zero: bool = True) -> Iterator[Problem]:
    """Problems of the named fields that must lie from 0 (or above it) to below 1."""
    for name in names:
        value = getattr(config, name)
        if not (0 <= value < 1) or (value == 0 and not zero):
            yield name, f"{value} does not lie between 0 and 1", "give a fraction, such as 0.1"


def _load(yaml: YAML, path: Path | str) -> Any:
    try:
        value = yaml.load(read_text(path))
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        what = " ".join(str(error.problem).split())
        raise UserError(f"{path}:{line}", what, "keep one of the two keys", USAGE) from None
    except (ConstructorError, MarkedYAMLError) as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(f"{path}:{line}", f"not plain YAML: {error.problem}", "correct the line", USAGE) from None
    except (YAMLError, ValueError, RecursionError) as error:
        what = f"not plain YAML: {' '.join(str(error).split())}"
        raise UserError(str(path), what, "correct the file", USAGE) from None
    if not isinstance(value, Mapping):
        what = f"holds {_show(value)}, not sections"
        raise UserError(str(path), what, "write `key: value` lines", USAGE)
    return value


def _merge(document: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if value is None and isinstance(document.get(key), Mapping):
            del document[key]
        elif isinstance(value, Mapping) and isinstance(document.get(key), Mapping):
            _merge(document[key], value)
        else:
            document[key] = value


def _parse(kind: Any, value: Any, key: str, problems: list[UserError], path: str) -> Any:
    """Parse `value` as `kind`; note what is wrong in `problems` and return None then."""

    def problem(what: str, fix: str) -> None:
        problems.append(UserError(f"{path}: {key}" if key else path, what, fix, USAGE))

    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind) and isinstance(kind, type):
        return _parse_dataclass(kind, value, key, problems, path)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _parse(next(a for a in arguments if a is not type(None)), value, key, problems, path)
    if origin is Literal:
        if isinstance(value, bool) or value not in arguments:
            near = difflib.get_close_matches(str(value), [str(a) for a in arguments], 1)
            hint = f"did you mean {near[0]}?" if near else "write " + " or ".join(str(a) for a in arguments)
            problem(f"{_show(value)} is not one of {', '.join(str(a) for a in arguments)}", hint)
        return value
    if origin is tuple:
        if not isinstance(value, list):
            problem(f"{_show(value)} is not a list", "write [a, b]")
            return ()
        return tuple(_parse(arguments[0], item, f"{key}[{i}]", problems, path) for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            problem(f"{_show(value)} is not a mapping", "write `name: value` lines below it")
            return {}
        return {str(k): _parse(arguments[1], v, f"{key}.{k}", problems, path) for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        problem(f"{_show(value)} is {_kind(type(value))}, not {_kind(kind)}", f"write {_kind(kind)}")
    elif kind is float and not math.isfinite(value):
        problem(f"{value} is not a finite number", "write a finite number")
    return value


def _parse_dataclass(schema: Any, value: Any, key: str, problems: list[UserError], path: str) -> Any:
    where = f"{path}: {key}." if key else f"{path}: "
    if not isinstance(value, Mapping):
        problems.append(UserError(where.rstrip(".: "), f"{_show(value)} is not a section", "write its keys", USAGE))
        return None
    hints = get_type_hints(schema)
    known = {field.name: field for field in fields(schema)}
    before = len(problems)
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            fix = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            problems.append(UserError(f"{where}{name}", "unknown key", fix, USAGE))
    parsed = {}
    for name, field in known.items():
        if name in value:
            parsed[name] = _parse(hints[name], value[name], f"{key}.{name}" if key else name, problems, path)
        elif field.default is MISSING and field.default_factory is MISSING:
            problems.append(UserError(f"{where}{name}", "missing", f"add `{name}:` with a value", USAGE))
    if len(problems) > before:
        return None
    config = schema(**parsed)
    for name, what, fix in getattr(config, "problems", tuple)():
        problems.append(UserError(f"{where}{name}", what, fix, USAGE))
    return config


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _kind(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    names |= {type(None): "empty", dict: "a section", list: "a list"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))
