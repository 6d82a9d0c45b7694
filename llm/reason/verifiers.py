"""Verifiers: small functions that say whether an answer is right, given the answer of the problem."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Literal

import regex as patterns

from llm.common.errors import DATA, UserError

VerifierName = Literal["exact", "number", "choice", "regex", "maths"]
Verifier = Callable[[str, str], bool]  # (given, wanted)
# a minus after a digit, a letter or a bracket belongs to what is before it, as in 10-7
NUMBER = re.compile(r"(?:(?<![\w)\]%])-)?(?:\d+(?:\.\d+)?|(?<![\d.])\.\d+)(?:[eE][+-]?\d+)?")
# a fraction or a power at the end of a text; read without going back
FRACTION = re.compile(r"\d\s*+[/^]\s*+[\d.]++\D*+$")
MOST = 80  # characters of a formula
SECONDS = 5.0  # the most that a regular expression may take for an answer


def exact(given: str, wanted: str) -> bool:
    """The same text, apart from the white space around it."""
    return given.strip() == wanted.strip()


def number(given: str, wanted: str) -> bool:
    """The same number: commas between thousands, units and words around the last number do not count.

    `7`, `7.0` and `$7 in all.` are equal. A fraction or a power at the end is no number: `3/4` is not 4. `10-7` is 7.
    """
    if FRACTION.search(given):
        return False
    plain = (re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.replace("−", "-")) for text in (given, wanted))
    found, right = map(NUMBER.findall, plain)
    if not found or not right:
        return False
    try:
        return Decimal(found[-1]) == Decimal(right[-1])
    except InvalidOperation:  # more digits than Decimal computes with
        return False


def choice(given: str, wanted: str) -> bool:
    """The same letter of a multiple choice: `b`, `(B)` and `B. Paris` are equal."""
    found, right = (re.match(r"\W*([A-Za-z])(?![A-Za-z])", text) for text in (given, wanted))
    return bool(found and right and found[1].upper() == right[1].upper())


def regex(given: str, wanted: str) -> bool:
    """The whole answer matches the regular expression `wanted`.

    Raises UserError if that takes longer than SECONDS: nested repeats can take for ever.
    """
    try:
        return patterns.fullmatch(wanted.strip(), given.strip(), timeout=SECONDS) is not None
    except TimeoutError:
        what = f"took more than {SECONDS:g} s on an answer of {len(given)} characters"
        fix = "write it without a repeat inside a repeat, such as (a+)+"
        raise UserError(f"the answer {wanted.strip()!r}, a regular expression", what, fix, DATA) from None


def maths(given: str, wanted: str) -> bool:
    """Equal formulas, by sympy: `2*(x+1)` and `2x + 2` are equal. No text is run as Python.

    What is not a formula, or longer than MOST characters, is not equal to anything.
    """
    from llm.reason.formulas import equal

    return len(given) <= MOST and len(wanted) <= MOST and equal(given, wanted)


VERIFIERS: dict[str, Verifier] = {"exact": exact, "number": number, "choice": choice, "regex": regex, "maths": maths}
