"""Jinja as chat templates use it: with the names that transformers gives them, in a sandbox, without randomness.

Jinja is imported where it is used, because few programs need it.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.parser import Parser
    from jinja2.runtime import Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment


@cache
def environment(start: str, end: str) -> ImmutableSandboxedEnvironment:
    """The environment of a template. Text of a `generation` block is put between `start` and `end`.

    Not defined are `strftime_now`, because a prompt would depend on the date, and what is random.
    """
    from jinja2.ext import Extension
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block `{% generation %}`, around text that a model wrote."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller: Macro) -> str:
            return f"{start}{caller()}{end}"

    jinja = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    jinja.filters["tojson"] = _to_json
    jinja.globals |= {"raise_exception": _refuse, "namespace": _namespace()}
    del jinja.filters["random"], jinja.globals["lipsum"]
    return jinja


def _namespace() -> Any:
    """The class of namespaces, without names that begin with an underscore, which are Python's internals."""
    from jinja2.exceptions import SecurityError
    from jinja2.utils import Namespace

    class SafeNamespace(Namespace):
        def __init__(*args: Any, **values: Any) -> None:  # `self` may be one of the names
            for name in values:
                _check(name)
            Namespace.__init__(*args, **values)

        def __setitem__(self, name: str, value: Any) -> None:
            _check(name)
            super().__setitem__(name, value)

    def _check(name: str) -> None:
        if name.startswith("_"):
            raise SecurityError(f"the template sets {name!r} in a namespace")

    return SafeNamespace


def _refuse(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Write JSON as Python does; Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
