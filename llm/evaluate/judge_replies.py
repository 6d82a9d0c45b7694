"""Read a score or a choice from the reply of a judge, by a rule that judge.reply names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Literal, get_args

Rule = Literal["strict", "thinking", "lenient"]
Choice = Literal["A", "B", "tie"]
MAX_LENIENT_CHARS = 200  # a longer reply is prose

_BLANK = r"[ \t\r\n\f\v]*"
_STRICT_SCORE = re.compile(f"{_BLANK}(100|[1-9]?[0-9]){_BLANK}")
_STRICT_CHOICE = re.compile(f"{_BLANK}(A|B|tie){_BLANK}")
_MARKUP = r"[*_`\"' \t\r\n\f\v]*"
_SAYS = rf"{_MARKUP}(?:\bis\b|[:=]){_MARKUP}"
_LENIENT_SCORE = re.compile(
    rf"{_MARKUP}(?:(?:the )?(?:final |overall )?(?:score|rating){_SAYS})?(100|[1-9]?[0-9])(?:\.0*)?"
    rf"{_MARKUP}(?:/ ?100|out of 100|%|points?)?{_MARKUP}[.!]?{_MARKUP}",
    re.IGNORECASE | re.ASCII,
)
_LENIENT_CHOICE = re.compile(
    rf"{_MARKUP}(?:(?:the )?(?:final )?(?:verdict|choice|winner|answer){_SAYS})?(?:(?:response|answer) )?"
    rf"[\[(]*(A|B|tie)[\])]*{_MARKUP}[.!]?{_MARKUP}",
    re.IGNORECASE | re.ASCII,
)


def _object_with(key: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}


# The JSON schemas of structured replies.
SCORE_SCHEMA = _object_with("score", {"type": "integer", "minimum": 0, "maximum": 100})
CHOICE_SCHEMA = _object_with("choice", {"type": "string", "enum": list(get_args(Choice))})


def parse_score(reply: str, rule: Rule = "strict", structured: bool = False) -> int | None:
    """Return the whole number from 0 to 100 that the judge was asked for, or None.

    | reply                                                             | strict | thinking | lenient          |
    | ----------------------------------------------------------------- | ------ | -------- | ---------------- |
    | `0`, `85`, `100`, with ASCII white space before or after          | number | number   | number           |
    | `<think>...</think>85`, also without the first tag                | None   | number   | number           |
    | `85.0`, `Score: 85`, `85/100`, `85 out of 100`, `**85**`, `85%`   | None   | None     | number           |
    | `85 points`, `"85"`, `85.`, `The score is 85.`                    | None   | None     | number           |
    | `101`, `850`, `-5`, `+85`, `085`, `8_5`, `85.5`, `85,5`, `8e1`    | None   | None     | None: no clipping |
    | full-width, Arabic and other digits; no-break or zero-width space | None   | None     | None: not ASCII  |
    | `60 85`, `<think>40</think>60</think>85`, one number on each line | None   | None     | None: unclear    |
    | prose, a refusal in prose, empty                                  | None   | None     | None             |

    With `structured`, the reply is the JSON object `{"score": 85}`, after the block of thoughts that the rule allows.
    """
    if structured:
        value = _member(reply, rule, "score")
        return value if type(value) is int and 0 <= value <= 100 else None
    found = _match(reply, rule, _STRICT_SCORE, _LENIENT_SCORE)
    return int(found) if found else None


def parse_choice(reply: str, rule: Rule = "strict", structured: bool = False) -> Choice | None:
    """Return `A`, `B` or `tie`, or None.

    The rules are those of `parse_score`. The lenient one also reads `[[A]]`, `Response A`, `Verdict: B`, `TIE.`. With
    `structured`, the reply is `{"choice": "A"}`.
    """
    if structured:
        value = _member(reply, rule, "choice")
        return next((choice for choice in get_args(Choice) if choice == value), None)
    found = _match(reply, rule, _STRICT_CHOICE, _LENIENT_CHOICE)
    return next((choice for choice in get_args(Choice) if found and choice.lower() == found.lower()), None)


def fix_for(reply: str, at_length_limit: bool, rule: Rule, read: Callable[[str, Rule], object]) -> str:
    """What to change so that the reply can be read."""
    if at_length_limit:
        return "raise judge.num_ctx or the server's limit of tokens, or set judge.think to false"
    for other in get_args(Rule):
        if other != rule and read(reply, other) is not None:
            return f"set judge.reply to {other}, which reads it"
    return "set judge.model to one that answers with this alone, or judge.structured to true"


def _match(reply: str, rule: Rule, strict: re.Pattern[str], lenient: re.Pattern[str]) -> str | None:
    text = reply if rule == "strict" else _without_thoughts(reply).strip(" \t\r\n\f\v")
    if rule == "lenient" and len(text) <= MAX_LENIENT_CHARS:
        strict = lenient
    found = strict.fullmatch(text)
    return found[1] if found else None


def _member(reply: str, rule: Rule, key: str) -> Any:
    """The only member of a JSON object, or None."""
    try:
        value = json.loads(reply if rule == "strict" else _without_thoughts(reply))
    except (ValueError, RecursionError):
        return None
    return value[key] if isinstance(value, dict) and value.keys() == {key} else None


def _without_thoughts(reply: str) -> str:
    """Remove one block `<think>...</think>` at the start. Chat templates often hold the first tag, not the reply."""
    thoughts, end, rest = reply.partition("</think>")
    one_block = bool(end) and "<think>" not in thoughts.lstrip().removeprefix("<think>")
    return rest if one_block and "think>" not in rest else reply
