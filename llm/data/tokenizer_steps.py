"""The steps of a `tokenizer.json` around its model: normalizer, pre-tokenizer and post-processor.

The functions raise ValueError for steps that are not supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiktoken_ext.openai_public import r50k_pat_str

# GPT-2's pattern for text whose digits are cut out first. White space before a digit then ends its part of the text.
DIGITS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|DIGITS| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"


def pattern(published: Any) -> str:
    """The pattern that cuts texts as the pre-tokenizer does."""
    outer = published if isinstance(published, Mapping) else {}
    steps = outer.get("pretokenizers") if outer.get("type") == "Sequence" else [outer]
    steps = steps if isinstance(steps, list) else []
    kinds = [step.get("type") if isinstance(step, Mapping) else None for step in steps]
    last = steps[-1] if kinds and kinds[-1] == "ByteLevel" else {}
    gpt2 = last.get("use_regex", True) is True
    if last.get("add_prefix_space") is False:
        if kinds == ["ByteLevel"] and gpt2:
            return str(r50k_pat_str)
        if kinds == ["Digits", "ByteLevel"] and gpt2:
            return DIGITS.replace("DIGITS", r"\p{N}" if steps[0].get("individual_digits") is True else r"\p{N}+")
        if kinds == ["Split", "ByteLevel"] and not gpt2 and (regex := _split(steps[0])):
            return regex
    raise ValueError(kinds)


def _split(step: Mapping[str, Any]) -> str | None:
    """The pattern of a Split that keeps all text; None for any other Split."""
    found = step.get("pattern")
    regex = found.get("Regex") if isinstance(found, Mapping) else None
    how = (step.get("behavior"), step.get("invert"))
    if isinstance(regex, str) and regex and how == ("Isolated", False):
        return f"{regex}|(?:(?!{regex})(?s:.))+"  # text between two matches is a piece too
    return regex if isinstance(regex, str) and how == ("Removed", True) else None


def is_nfc(published: Any) -> bool:
    """Whether the normalizer is NFC; if not, there is none."""
    steps = published
    if isinstance(published, Mapping) and published.get("type") == "Sequence":
        steps = published.get("normalizers")
    elif published is not None:
        steps = [published]
    found = [] if steps is None else steps if isinstance(steps, list) else [steps]
    if all(isinstance(step, Mapping) and step.get("type") == "NFC" for step in found):
        return bool(found)
    raise ValueError(steps)


def begin(published: Any, special: Mapping[str, int]) -> int | None:
    """The special token that the post-processor puts before a text; None if it adds nothing."""
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
