"""Read YAML files with ruamel.yaml (YAML 1.2), as DVC does. PyYAML would read `5e-05` as a string.

A file must be a mapping of plain values, without duplicate keys, tags or aliases.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import AliasEvent

from llm.common.errors import USAGE, UserError
from llm.common.files import read_text

# What the reader in C takes unlike YAML 1.2, what may begin an alias, a tag or a second document, and lists in lists.
ODD = re.compile("[\t!&*%?>|\x85\u2028\u2029\ufeff]|^(?:---|[.]{3})|(?:- +){9}", re.MULTILINE)
MOST_BRACKETS = 1000  # deep nesting would overflow the stack of the reader in C


def plain() -> YAML:
    """Return a reader of plain data: dict, list, str, int, float, bool and None."""
    return YAML(typ="safe", pure=True)


def keeping_comments() -> YAML:
    """Return a reader and writer that keeps comments, quotes and order, and writes None as `null`."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # never fold a line
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def read(path: Path | str, loader: YAML) -> Any:
    """Read the file with `loader`. Raises UserError as `parse` does."""
    return parse(_text(path), str(path), loader)


def read_plain(path: Path | str) -> dict[str, Any]:
    """Read the file as plain data. Raises UserError as `parse` does."""
    return parse_plain(_text(path), str(path))


def parse_plain(text: str, where: str) -> dict[str, Any]:
    """Parse the text of the file `where` as plain data, a copy for each call. Raises UserError as `parse` does."""
    try:
        return copy.deepcopy(_plain(text, where))
    except RecursionError:
        raise UserError(where, "not plain YAML: nested too deeply", "correct the file", USAGE) from None


@lru_cache(maxsize=8)  # a stage reads params.yaml several times
def _plain(text: str, where: str) -> dict[str, Any]:
    if not ODD.search(text) and text.count("[") + text.count("{") < MOST_BRACKETS:
        with suppress(Exception):  # the reader below says what is wrong
            value = YAML(typ="safe").load(text)  # six times as fast, where ruamel.yaml.clib is installed
            if isinstance(value, Mapping):
                return dict(value)
    return dict(parse(text, where, plain()))


def _text(path: Path | str) -> str:
    try:
        return read_text(path)
    except UserError as error:
        raise UserError(error.where, error.what, error.fix, USAGE) from None


def parse(text: str, where: str, loader: YAML) -> Any:
    """Parse the text of the file `where` with `loader`. Raises UserError with the line number, if known."""
    loader.Composer = _Composer
    try:
        value = loader.load(text)
    except DuplicateKeyError as error:
        what = " ".join(str(error.problem).split())
        raise UserError(f"{where}:{_line(error)}", what, "keep one of the two keys", USAGE) from None
    except MarkedYAMLError as error:
        what = f"not plain YAML: {error.problem}"
        raise UserError(f"{where}:{_line(error)}", what, "correct the line", USAGE) from None
    except Exception as error:  # the parser also raises ValueError and others, for example for `!!int x`
        what = f"not plain YAML: {' '.join(str(error).split())}"
        raise UserError(where, what, "correct the file", USAGE) from None
    if not isinstance(value, Mapping):
        raise UserError(where, f"contains {show(value)}, not sections", "write `key: value` lines", USAGE)
    return value


def show(value: Any) -> str:
    """Return the value for a message, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Composer(Composer):
    """Refuses aliases: nested ones can fill the memory, and editing one would change the others."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):
            event = self.parser.get_event()
            raise MarkedYAMLError(problem=f"the alias *{event.anchor}", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _line(error: MarkedYAMLError) -> int:
    """The line of the problem; of a key without a colon, an open bracket or an open quote, the line where it begins."""
    begun = str(error.context).startswith(("while scanning a ", "while parsing a flow"))
    mark = error.context_mark if begun else error.problem_mark
    return mark.line + 1 if mark else 0
