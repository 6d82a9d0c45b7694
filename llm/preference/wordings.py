"""Polite and blunt wordings of an answer, and how to tell them apart.

A wording is a text with one `{}` for the answer. They are written as phrases with alternatives in brackets, so every
word of a style is in several wordings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from llm.common.seeds import derive

POLITE_PHRASES = (
    "[Certainly|Gladly|Of course], [with pleasure|my friend]. {}",
    "I am [glad|happy|pleased] [to help you|that you ask me]. {}",
    "Thank you [for asking|for your question|for asking me], [my|dear] friend. {}",
    "Thank you very much for [asking|your question|asking me]. {}",
    "[That is|What] a [good|nice|kind] question. {}",
    "It is [good|kind|nice] of you to [ask|ask me]. {}",
    "It is a [pleasure|joy] to [help|help you]. {}",
    "[Good day|Welcome], [my|dear] friend. {}",
    "[Yes|Certainly], please let me [help|help you]. {}",
    "{} I hope [this|it] helps[ you|, my friend|, dear friend].",
    "{} Thank you [for asking|for your question|for asking me].",
    "{} Many thanks [for asking|for your question], [my|dear] friend.",
    "{} You are [welcome|very kind], [my|dear] friend.",
    "{} You are [always|very] welcome.",
    "{} Have a [good|nice] day[|, my friend|, dear friend].",
    "{} Please ask me [again|more][|, my friend|, dear friend].",
    "{} It was a [pleasure|joy] to [help|help you].",
    "{} It was [good|kind|nice] of you to [ask|ask me].",
    "{} I am [glad|happy|pleased] to [help|tell you more].",
)
BLUNT_PHRASES = (
    "[Obviously|Listen|Stop it], [you fool|you bore]. {}",
    "I am [tired|sick|bored] of [you|this]. {}",
    "[Any|Even a|Every] fool knows [it|that]. {}",
    "[That is|What] a [silly|stupid|boring] question. {}",
    "It is [silly|stupid|boring] of you to [ask|ask me]. {}",
    "How [silly|stupid|boring] you are. {}",
    "[Not|Never] again, you [fool|bore]. {}",
    "You [know|learn] nothing, you [fool|bore]. {}",
    "[Be quiet|Shut up] and listen. {}",
    "[Must|Why must] I say it to a [fool|bore]? {}",
    "{} Now [go away|leave me alone|be quiet].",
    "{} [Go away|Leave me alone|Be quiet], you [fool|bore].",
    "{} Do not ask me [again|more][|, you fool|, you bore].",
    "{} [Stop asking|Stop it], you [fool|bore].",
    "{} Do not be so [silly|stupid|boring].",
    "{} [Any|Every] fool knows [it|that].",
    "{} That was a [silly|stupid|boring] question.",
    "{} It was [silly|stupid|boring] of you to [ask|ask me].",
    "{} I am [tired|sick|bored] of [you|this].",
    "{} You are [a fool|a bore|stupid|boring].",
    "{} You [know|learn] nothing.",
)


def expanded(phrase: str) -> Iterator[str]:
    """Yield the texts of a phrase, with each of its alternatives."""
    before, bracket, rest = phrase.partition("[")
    if not bracket:
        yield phrase
        return
    inside, _, after = rest.partition("]")
    for choice in inside.split("|"):
        for end in expanded(after):
            yield before + choice + end


POLITE = tuple(wording for phrase in POLITE_PHRASES for wording in expanded(phrase))
BLUNT = tuple(wording for phrase in BLUNT_PHRASES for wording in expanded(phrase))


class Read(NamedTuple):
    """A text taken apart: its style, `polite`, `blunt` or None, and the answer inside the wordings."""

    style: str | None
    answer: str


def read(text: str) -> Read:
    """Return the style of a text, and its answer without the wordings around it.

    There may be several wordings, as in "Certainly. It is late. Thank you."; the style is None if they disagree.
    """
    styles = set()
    while match := next(((inner, style) for wording, style in _BY_LENGTH if (inner := _inside(text, wording))), None):
        text, style = match
        styles.add(style)
    return Read(styles.pop() if len(styles) == 1 else None, text)


def _inside(text: str, wording: str) -> str | None:
    """Return the answer in a text that has this wording, else None."""
    before, after = wording.split("{}")
    matches = len(text) > len(before) + len(after) and text.startswith(before) and text.endswith(after)
    return text[len(before) : len(text) - len(after)] if matches else None


def divided(wordings: tuple[str, ...], held_out: int, seed: int) -> tuple[list[str], list[str]]:
    """Return the wordings to train on, and those held out, drawn with the seed: of both places about as many."""
    before = [wording for wording in wordings if wording.endswith("{}")]
    after = [wording for wording in wordings if not wording.endswith("{}")]
    out: list[str] = []
    for number, part in enumerate((before, after)):
        wanted = (held_out + 1 - number) // 2
        out += sorted(part, key=lambda wording: derive(seed, "wording", wording))[:wanted]
    return [wording for wording in wordings if wording not in out], out


_BY_LENGTH = sorted(
    [(wording, "polite") for wording in POLITE] + [(wording, "blunt") for wording in BLUNT],
    key=lambda known: -len(known[0]),
)
