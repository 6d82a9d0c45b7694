"""Equality of formulas by their values, without running text as Python."""

from __future__ import annotations

import ast
import operator
import re
from itertools import pairwise

import sympy

TOKEN = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[A-Za-z]+|\*\*|[-+*/^()]")
FUNCTIONS = {name: getattr(sympy, name) for name in ("sqrt", "sin", "cos", "tan", "exp", "log")}
SIGNS = str.maketrans({"−": "-", "×": "*", "·": "*", "⋅": "*", "÷": "/"})
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
POINTS = (sympy.Rational(3, 11), sympy.Rational(-5, 13), sympy.Rational(17, 13))
STEP = sympy.Rational(1, 37)  # between the values of two letters at a point
DIGITS = 50  # of these values
APART = sympy.Float(10) ** -40  # a relative difference that no rounding makes
LONGEST = 10_000  # digits of a number: a tower of powers would fill the memory


class NotReadable(Exception):
    """A text that is no formula, or one with numbers that are too long."""


def equal(given: str, wanted: str) -> bool:
    """Whether both are formulas with the same values at some points.

    To simplify their difference would be a proof, but can take hours.
    """
    try:
        return _same_values(parse(given), parse(wanted))
    except (NotReadable, ArithmeticError, RecursionError, ValueError, TypeError, MemoryError):
        return False


def _same_values(first: sympy.Expr, second: sympy.Expr) -> bool:
    letters = sorted(first.free_symbols | second.free_symbols, key=str)
    defined = 0
    for point in POINTS:
        values = {letter: point + n * STEP for n, letter in enumerate(letters)}
        one, other = (each.evalf(DIGITS, subs=values) for each in (first, second))
        if not one.is_finite and not other.is_finite:
            continue
        if not one.is_finite or not other.is_finite or abs(one - other) > APART * max(abs(one), abs(other), APART):
            return False
        defined += 1
    return defined > 0


def parse(text: str) -> sympy.Expr:
    """The formula in a text. `2x` and `2*x`, `x^2` and `x**2` are the same. Of `x = 3`, the right side counts.

    Only numbers, operators, single letters, pi and the names of FUNCTIONS are read. Raises NotReadable for all else.
    """
    text = text.strip().strip("$").rpartition("=")[2].translate(SIGNS)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # between thousands
    tokens = TOKEN.findall(text)
    if "".join(tokens) != "".join(text.split()):
        raise NotReadable
    source = ""
    for left, right in pairwise(["", *tokens]):
        value_before = left == ")" or (left[-1:].isalnum() and left not in FUNCTIONS)
        value_follows = right == "(" or right.isalpha() or (left == ")" and right[0].isdigit())
        source += " * " if value_before and value_follows else " "
        source += (right.lstrip("0") or "0") if right.isdigit() else right.replace("^", "**")
    try:
        return _build(ast.parse(source.strip(), mode="eval").body, source.strip())[0]
    except SyntaxError:
        raise NotReadable from None


def _build(node: ast.expr, source: str) -> tuple[sympy.Expr, float]:
    """The formula of a node, and about how many digits its values have."""
    match node:
        case ast.Constant():
            text = ast.get_source_segment(source, node) or ""
            digits = len(text) + abs(float(text.lower().partition("e")[2] or 0))
            if digits > LONGEST:
                raise NotReadable
            value = sympy.Rational(text)
        case ast.Name(name) if name == "pi" or len(name) == 1:
            value, digits = sympy.pi if name == "pi" else sympy.Symbol(name), 0.5
        case ast.UnaryOp(ast.UAdd() | ast.USub() as sign, operand):
            value, digits = _build(operand, source)
            value = -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left, ast.Pow(), right):
            (base, digits), (exponent, more) = _build(left, source), _build(right, source)
            digits *= max(1.0, abs(float(exponent)) if exponent.is_Rational else _power_of_ten(more))
            value = base ** _if_short(exponent, digits)
        case ast.BinOp(left, sign, right) if type(sign) in OPERATORS:
            (first, digits), (second, more) = _build(left, source), _build(right, source)
            value, digits = OPERATORS[type(sign)](first, second), digits + more
        case ast.Call(ast.Name(name), [argument], []) if name in FUNCTIONS:
            value, digits = _build(argument, source)
            digits = _power_of_ten(digits) if name == "exp" else digits
            value = FUNCTIONS[name](_if_short(value, digits))
        case _:
            raise NotReadable
    return value, digits


def _power_of_ten(digits: float) -> float:
    return float(10.0 ** min(digits, 9.0))


def _if_short(value: sympy.Expr, digits: float) -> sympy.Expr:
    """The value, if what is computed with it has at most LONGEST digits; else raises NotReadable."""
    if digits > LONGEST:
        raise NotReadable
    return value
