"""The steps of a `tokenizer.json` before its model: the normalizer, and the pre-tokenizer, which cuts texts.

Both functions raise ValueError for steps that are not supported.
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
