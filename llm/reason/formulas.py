"""Equality of formulas with sympy, without running text as Python."""

from __future__ import annotations

import cmath
import re

import sympy
from sympy.core.sympify import SympifyError

ALLOWED = re.compile(r"[0-9A-Za-z+\-*/^().,= ]*")
NAME = re.compile(r"[A-Za-z]+")
FUNCTIONS = {name: getattr(sympy, name) for name in ("sqrt", "sin", "cos", "tan", "exp", "log", "pi")}
TALL = re.compile(r"\*\*|\^")
POINTS = (sympy.Rational(3, 11), sympy.Rational(-5, 13), sympy.Rational(17, 3))
APART = 1e-6  # a relative difference that no rounding makes


def equal(given: str, wanted: str) -> bool:
    """Whether both are formulas with the same value for all values of their letters."""
    first, second = parse(given), parse(wanted)
    if first is None or second is None:
        return False
    try:
        return not _differ(first, second) and bool(sympy.simplify(first - second) == 0)
    except (ArithmeticError, RecursionError, ValueError, TypeError, MemoryError):  # such as a number too large
        return False


def _differ(first: sympy.Expr, second: sympy.Expr) -> bool:
    """Whether their values are clearly different at some point. That is fast, while to simplify may take hours."""
    letters = sorted(first.free_symbols | second.free_symbols, key=str)
    for point in POINTS:
        values = {letter: point + sympy.Rational(n, 7) for n, letter in enumerate(letters)}
        one, other = (complex(each.evalf(15, subs=values)) for each in (first, second))
        if not cmath.isfinite(one) or not cmath.isfinite(other):
            continue
        if abs(one - other) > APART * max(abs(one), abs(other), APART):
            return True
    return False


def parse(text: str) -> sympy.Expr | None:
    """The formula, or None. `2x` and `2*x`, `x^2` and `x**2` are the same. Of `x = 3`, the right side counts.

    Only digits, operators, single letters and the names of FUNCTIONS are read, and one power at most, since a tower of
    powers could take for ever.
    """
    text = text.strip().strip("$").rpartition("=")[2].strip()
    names = NAME.findall(text)
    if re.search(r"(?<!\d)\.|\.(?!\d)", text):  # a dot only inside a number
        return None
    if not text or not ALLOWED.fullmatch(text) or any(len(n) > 1 and n not in FUNCTIONS for n in names):
        return None
    powers = TALL.split(text.replace(" ", ""))
    if len(powers) > 2 or (len(powers) == 2 and not re.match(r"\(?-?\d{1,2}(?!\d)", powers[1])):
        return None
    text = re.sub(r"(?<=[0-9)]) *(?=[A-Za-z(])", "*", text.replace("^", "**"))
    letters = {name: sympy.Symbol(name) for name in names if len(name) == 1}
    try:
        found = sympy.sympify(text, locals=letters | FUNCTIONS)
    except (SympifyError, SyntaxError, TypeError, AttributeError, ValueError, ZeroDivisionError):
        return None
    return found if isinstance(found, sympy.Expr) else None
