"""What the post-processor of a `tokenizer.json` adds to a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def begin(published: Any, special: Mapping[str, int]) -> int | None:
    """The special token that is put before a text; None if nothing is added to it.

    Raises ValueError for a post-processor that adds something else.
    """
    outer = published if isinstance(published, Mapping) else {}
    steps = outer.get("processors") or [] if outer.get("type") == "Sequence" else [published]
    found: list[int] = []
    for step in steps if isinstance(steps, list) else [steps]:
        kind = step.get("type") if isinstance(step, Mapping) else None
        if step is None or kind == "ByteLevel":  # which changes only the places that tokens are said to have
            continue
        pieces = step.get("single") if kind == "TemplateProcessing" else None
        if not isinstance(pieces, list) or not all(isinstance(piece, Mapping) for piece in pieces):
            raise ValueError(kind)
        names = [name for piece in pieces for name in piece]
        if names == ["SpecialToken", "Sequence"]:
            found.append(_first(step, special))
        elif names != ["Sequence"]:
            raise ValueError(names)
    if len(found) > 1:
        raise ValueError(found)
    return found[0] if found else None


def _first(step: Mapping[str, Any], special: Mapping[str, int]) -> int:
    """The id of the special token with which a template begins."""
    piece, known = step["single"][0]["SpecialToken"], step.get("special_tokens")
    name = str(piece.get("id")) if isinstance(piece, Mapping) else ""
    entry = known.get(name) if isinstance(known, Mapping) else None
    ids = entry.get("ids") if isinstance(entry, Mapping) else None
    if name not in special or ids != [special[name]]:
        raise ValueError(name)
    return special[name]
