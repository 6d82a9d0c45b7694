"""Read params.yaml into frozen dataclasses. All problems of the file are reported at once.

Each config is a dataclass next to the code that it configures. Its optional method `problems()` checks the values and
yields a `Problem` for each invalid one.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llm.common import yaml_file
from llm.common.errors import USAGE, UserError, nearest, raise_all
from llm.common.yaml_file import show

PARAMS = Path("params.yaml")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # DVC puts these names into commands and paths
KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
T = TypeVar("T")

Problem = tuple[str, str, str]  # the field, what is wrong with its value, the fix


def read(schema: type[T], path: Path | str = PARAMS) -> T:
    """Read the sections that are fields of `schema`, and ignore the sections of other stages.

    Raises UserError for unknown or missing keys and for invalid values.
    """
    sections = load(path)
    wanted = {field.name for field in fields(schema)}  # type: ignore[arg-type]
    return parse(schema, {key: value for key, value in sections.items() if key in wanted}, str(path))


def read_section(schema: type[T], name: str) -> T:
    """Read one section of params.yaml. Raises UserError as `read` does."""
    section: T = getattr(read(make_dataclass("Section", [(name, schema)])), name)
    return section


def read_all(schema: type[T], path: Path | str = PARAMS) -> T:
    """Read all sections. Raises UserError as `read` does, and for a section that is not a field of `schema`."""
    return parse(schema, load(path), str(path))


def load(path: Path | str = PARAMS) -> dict[str, Any]:
    """Read a YAML file as plain data. Raises UserError if it is not a mapping of plain values."""
    return yaml_file.read_plain(path)


def parse(schema: type[T], value: Any, path: str = str(PARAMS)) -> T:
    """Turn plain data into the dataclass `schema`. Raises UserError; `path` names the file in its messages."""
    parser = _Parser(path)
    parsed = parser.value(schema, value, "")
    raise_all(parser.problems)
    return parsed  # type: ignore[no-any-return]


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a dataclass by dotted key, as MLflow logs them."""
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
    """Yield a problem for each named field that is not above 0. None is allowed."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            yield name, f"{value} is not above 0", "give a number above 0"


def at_least_zero(config: Any, *names: str) -> Iterator[Problem]:
    """Yield a problem for each named field that is negative. None is allowed."""
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 0:
            yield name, f"{value} is negative", "give 0 or more"


def fraction(config: Any, *names: str, zero: bool = True) -> Iterator[Problem]:
    """Yield a problem for each named field outside (0, 1), or outside [0, 1) if `zero`. None is allowed."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (0 < value < 1 or (value == 0 and zero)):
            yield name, f"{value} is not between 0 and 1", "give a fraction, such as 0.1"


class _Parser:
    """Converts plain data to the types of a dataclass and collects all problems."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[UserError] = []

    def value(self, kind: Any, value: Any, key: str) -> Any:
        """Convert `value` to the type `kind`. A mismatch is added to `problems`, and the result must not be used."""
        origin, arguments = get_origin(kind), get_args(kind)
        if is_dataclass(kind):
            return self._section(kind, value, key)
        if origin in (Union, types.UnionType):  # `X | None`, or names or a section: `Literal[...] | Section`
            if value is None and type(None) in arguments:
                return None
            kinds = [a for a in arguments if a is not type(None)]
            fitting = [a for a in kinds if is_dataclass(a) == isinstance(value, Mapping)]
            return self.value((fitting or kinds)[0], value, key)
        if origin is tuple and isinstance(value, list):
            if Ellipsis not in arguments and len(value) != len(arguments):
                self._report(key, f"{show(value)} has {len(value)} values", f"give a list of {len(arguments)}")
            return tuple(self.value(arguments[0], item, f"{key}[{i}]") for i, item in enumerate(value))
        if origin is dict and isinstance(value, Mapping):
            return {name: self._item(arguments[1], name, item, key) for name, item in value.items()}
        if kind is float and type(value) is int and abs(value) < 2**53:  # exact as a float
            value = float(value)
        mismatch = _mismatch(kind, value)
        if mismatch:
            self._report(key, *mismatch)
        return value

    def _report(self, key: str, what: str, fix: str) -> None:
        self.problems.append(UserError(f"{self.path}: {key}" if key else self.path, what, fix, USAGE))

    def _item(self, kind: Any, name: Any, value: Any, key: str) -> Any:
        """Convert one item of a mapping whose keys the user chooses: names of items, or (of strings) any text."""
        if kind is str:
            if not isinstance(name, str):
                self._report(key, f"the name {show(name)} is not a string", f'write it in quotes: "{name}"')
        elif not isinstance(name, str) or not NAME.fullmatch(name):
            what = f"the name {show(name)} has characters other than letters, digits, dash and underscore"
            self._report(key, what, "give it another name")
        return self.value(kind, value, f"{key}.{name}")

    def _section(self, schema: Any, value: Any, key: str) -> Any:
        """Make a dataclass from a mapping. `problems()` runs only if all fields have the right type."""
        if not isinstance(value, Mapping):
            self._report(key, f"{show(value)} is not a section", "write its keys")
            return None
        above = f"{key}." if key else ""
        hints = get_type_hints(schema)
        known = {field.name: field for field in fields(schema)}
        before = len(self.problems)
        for name in value:
            if name not in known:
                self._report(f"{above}{name}", "unknown key", nearest(name, known, f"known keys: {', '.join(known)}"))
        parsed = {}
        for name, field in known.items():
            if name in value:
                parsed[name] = self.value(hints[name], value[name], f"{above}{name}")
            elif field.default is MISSING and field.default_factory is MISSING:
                self._report(f"{above}{name}", "missing", f"add `{name}:` with a value")
        if len(self.problems) > before:
            return None
        config = schema(**parsed)
        for name, what, fix in getattr(config, "problems", tuple)():
            self._report(f"{above}{name}", what, fix)
        return config


def _mismatch(kind: Any, value: Any) -> tuple[str, str] | None:
    """Return what is wrong and the fix if `value` is not of the type `kind`, else None."""
    origin = get_origin(kind)
    if origin is Literal:
        return _not_one_of(get_args(kind), value)
    containers = {tuple: ("a list", "write [a, b]"), dict: ("a mapping", "write `name: value` lines below it")}
    if origin in containers:
        wanted, fix = containers[origin]
        return f"{show(value)} is not {wanted}", fix
    if type(value) is not kind:
        given = {type(None): "empty", dict: "a section", list: "a list"} | KINDS
        found = given.get(type(value), type(value).__name__)
        return f"{show(value)} is {found}, not {KINDS[kind]}", f"write {KINDS[kind]}"
    if kind is float and not math.isfinite(value):
        return f"{value} is not a finite number", "write a finite number"
    return None


def _not_one_of(allowed: tuple[Any, ...], value: Any) -> tuple[str, str] | None:
    if value in allowed and not isinstance(value, bool):  # True == 1
        return None
    names = [str(one) for one in allowed]
    return f"{show(value)} is not one of {', '.join(names)}", nearest(value, names, f"write {' or '.join(names)}")
