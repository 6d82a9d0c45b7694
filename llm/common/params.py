"""params.yaml as typed, frozen dataclasses; every problem found is reported at once.

ruamel.yaml (YAML 1.2) reads and writes the file because DVC does: PyYAML takes DVC's own `5e-05` for a string.
"""

from __future__ import annotations

import copy
import difflib
import io
import math
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent

from llm.common.errors import USAGE, UserError, raise_all
from llm.common.files import read_text, write_text

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


def read_all(schema: type[T], path: Path | str = PARAMS) -> T:
    """Read every section; one that `schema` has no field for is an unknown key."""
    return parse(schema, load(path), str(path))


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

    A null removes an entry of a mapping whose keys are free (an item of `download`). `base` names another overlay,
    beside this one, to apply first. Nothing is written unless the result is valid as a whole.
    """
    apply(read_overlay(Path(changes)), schema, path, origin=str(changes))


def read_overlay(changes: Path, above: tuple[Path, ...] = ()) -> list[Mapping[str, Any]]:
    """The overlay and, before it, the ones it builds on."""
    sections = load(changes)
    base = sections.pop("base", None)
    if base is None:
        return [sections]
    if not isinstance(base, str) or (changes.parent / base).resolve() in (changes.resolve(), *above):
        what = f"{_show(base)} is not the name of another overlay"
        raise UserError(f"{changes}: base", what, "name a file beside this one", USAGE)
    return [*read_overlay(changes.parent / base, (changes.resolve(), *above)), sections]


def apply(
    changes: Sequence[Mapping[str, Any]], schema: type[Any], path: Path | str = PARAMS, origin: str = "overlay"
) -> None:
    """As `overlay`, with the changes given as nested mappings, one after the other."""
    load(path)  # refuses tags, which the reader below would carry along
    keeping = _round_trip()
    document = _load(keeping, path)
    for change in changes:
        _merge(document, change, schema)
    buffer = io.StringIO()
    keeping.dump(document, buffer)
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
    """Problems of the named fields that must lie from 0 (or above it) to below 1 (None is let through)."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not (0 < value < 1 or (value == 0 and zero)):
            yield name, f"{value} does not lie between 0 and 1", "give a fraction, such as 0.1"


def _round_trip() -> YAML:
    """A reader and writer that keeps comments, quotes and order, and writes null as `null`."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # never fold a line
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _load(loader: YAML, path: Path | str) -> Any:
    """Read `path` with `loader`: one for plain data, or one that keeps comments; neither makes objects or runs code."""
    loader.Composer = _Composer
    try:
        value = loader.load(read_text(path))
    except UserError as error:
        raise UserError(error.where, error.what, error.fix, USAGE) from None
    except DuplicateKeyError as error:
        what = " ".join(str(error.problem).split())
        raise UserError(f"{path}:{_line(error)}", what, "keep one of the two keys", USAGE) from None
    except MarkedYAMLError as error:
        what = f"not plain YAML: {error.problem}"
        raise UserError(f"{path}:{_line(error)}", what, "correct the line", USAGE) from None
    except Exception as error:  # whatever a parser raises is about the text: ValueError for `!!int x`, ...
        what = f"not plain YAML: {' '.join(str(error).split())}"
        raise UserError(str(path), what, "correct the file", USAGE) from None
    if not isinstance(value, Mapping):
        what = f"holds {_show(value)}, not sections"
        raise UserError(str(path), what, "write `key: value` lines", USAGE)
    return value


class _Composer(Composer):
    """Refuses aliases: a change of one place would change another, and ten lines of them can fill the memory."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):
            event = self.parser.get_event()
            raise MarkedYAMLError(problem=f"the alias *{event.anchor}", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _line(error: MarkedYAMLError) -> int:
    return error.problem_mark.line + 1 if error.problem_mark else 0


def _merge(document: Any, changes: Mapping[str, Any], kind: Any) -> None:
    """Write `changes` into the round-trip `document`; `kind` is the type that the schema gives it."""
    free = get_origin(kind) is dict  # the keys are names of the user's
    hints = get_type_hints(kind) if is_dataclass(kind) else {}
    for key, value in changes.items():
        there = document.get(key)
        if value is None and free:
            document.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(there, Mapping):
            _merge(there, value, get_args(kind)[1] if free else hints.get(key))
        elif _same_names(there, value):
            for old, new in zip(there, value, strict=True):
                for stale in set(old) - set(new):
                    del old[stale]
                _merge(old, new, None)
        else:
            document[key] = copy.deepcopy(value)  # one object in two places would become a YAML alias


def _same_names(old: Any, new: Any) -> bool:
    """Whether these are lists of the same named entries: they are merged, which keeps the comments among them."""

    def names(value: Any) -> list[Any] | None:
        if isinstance(value, list) and value and all(isinstance(entry, Mapping) for entry in value):
            return [entry.get("name") for entry in value]
        return None

    return names(old) is not None and names(old) == names(new)


def _parse(kind: Any, value: Any, key: str, problems: list[UserError], path: str) -> Any:
    """Parse `value` as `kind`; where it does not fit, note that in `problems` and return anything."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _parse_dataclass(kind, value, key, problems, path)
    if origin in (Union, types.UnionType):
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _parse(inner, value, key, problems, path)
    if origin is tuple and isinstance(value, list):
        return tuple(_parse(arguments[0], item, f"{key}[{i}]", problems, path) for i, item in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {name: _parse_item(arguments[1], name, v, key, problems, path) for name, v in value.items()}
    if kind is float and type(value) is int and abs(value) < 2**53:  # beyond, a float is another number
        value = float(value)
    mismatch = _mismatch(kind, value)
    if mismatch:
        problems.append(UserError(f"{path}: {key}", *mismatch, USAGE))
    return value


def _mismatch(kind: Any, value: Any) -> tuple[str, str] | None:
    """What is wrong with a value that should be of `kind`, and the fix; None where it is of that kind."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return None if value in arguments and not isinstance(value, bool) else _not_one_of(arguments, value)
    containers = {tuple: ("a list", "write [a, b]"), dict: ("a mapping", "write `name: value` lines below it")}
    if origin in containers:
        wanted, fix = containers[origin]
        return f"{_show(value)} is not {wanted}", fix
    if type(value) is not kind:
        return f"{_show(value)} is {_kind(type(value))}, not {_kind(kind)}", f"write {_kind(kind)}"
    if kind is float and not math.isfinite(value):
        return f"{value} is not a finite number", "write a finite number"
    return None


def _not_one_of(allowed: tuple[Any, ...], value: Any) -> tuple[str, str]:
    names = [str(one) for one in allowed]
    near = difflib.get_close_matches(str(value), names, 1)
    fix = f"did you mean {near[0]}?" if near else f"write {' or '.join(names)}"
    return f"{_show(value)} is not one of {', '.join(names)}", fix


def _parse_item(kind: Any, name: Any, value: Any, key: str, problems: list[UserError], path: str) -> Any:
    """Parse an entry of a mapping with free keys; DVC pastes such a key into a command and a path."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        what = f"the name {_show(name)} has characters beside letters, digits, dash and underscore"
        problems.append(UserError(f"{path}: {key}", what, "give it another name", USAGE))
    return _parse(kind, value, f"{key}.{name}", problems, path)


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
