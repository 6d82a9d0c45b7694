"""Write reasoning.jsonl, word problems with small numbers, with their steps. Run `python data/sample/reasoning.py`."""

import json
import random
from pathlib import Path

SEED = 123
EACH = 6  # problems of each kind
NAMES = "Ana Ben Carla David Emma Felix Grace Hugo Ida Jonas Klara Leo".split()
# The text, the ranges of a, b and c, and the steps: (first, sign, second), where `x` is the result of the step before.
KINDS = (
    (
        "{name} buys {a} notebooks for {b} euros each and pays with {c} euros. How many euros does {name} get back?",
        ((3, 8), (2, 9), (100, 100)),
        (("a", "*", "b"), ("c", "-", "x")),
    ),
    (
        "{name} has {a} boxes with {b} biscuits each and eats {c} biscuits. How many biscuits are left?",
        ((3, 9), (4, 9), (2, 10)),
        (("a", "*", "b"), ("x", "-", "c")),
    ),
    (
        "{name} walks {a} kilometres an hour for {b} hours, then {c} kilometres more. How many kilometres is that?",
        ((3, 6), (2, 5), (1, 9)),
        (("a", "*", "b"), ("x", "+", "c")),
    ),
    (
        "{name} is {a} years old. A brother is {b} years older. How old will the brother be in {c} years?",
        ((5, 12), (2, 9), (3, 9)),
        (("a", "+", "b"), ("x", "+", "c")),
    ),
    (
        "{name} drives a bus with {a} passengers. Then {b} get off and {c} get on. How many passengers are there now?",
        ((20, 40), (5, 15), (3, 15)),
        (("a", "-", "b"), ("x", "+", "c")),
    ),
    (
        "{name} reads {a} pages a day of a book with {c} pages. How many pages are left after {b} days?",
        ((6, 15), (3, 6), (120, 120)),
        (("a", "*", "b"), ("c", "-", "x")),
    ),
    (
        "{name} plants {a} rows of {b} flowers. A flower costs {c} euros. How many euros do all flowers cost?",
        ((2, 6), (3, 7), (2, 4)),
        (("a", "*", "b"), ("x", "*", "c")),
    ),
    (
        "{name} has {a} apples, buys {b} more, and gives {c} away. How many apples does {name} have then?",
        ((10, 25), (5, 20), (2, 9)),
        (("a", "+", "b"), ("x", "-", "c")),
    ),
    (
        "{name} finds {a} shells on Monday, {b} on Tuesday and {c} on Wednesday. How many shells is that in all?",
        ((4, 15), (4, 15), (2, 9)),
        (("a", "+", "b"), ("x", "+", "c")),
    ),
    (
        "{name} fills {a} bags with {b} nuts each, and has {c} bags more with as many. How many nuts are there in all?",
        ((2, 6), (5, 12), (2, 5)),
        (("a", "+", "c"), ("x", "*", "b")),
    ),
)
SIGNS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def lines():
    """The problems as JSON lines, those of the validation split first."""
    chance = random.Random(SEED)
    for number in range(EACH * len(KINDS)):
        text, ranges, steps = KINDS[number % len(KINDS)]
        values = {key: chance.randint(*limits) for key, limits in zip("abc", ranges, strict=True)}
        question = text.format(name=NAMES[number % len(NAMES)], **values)
        written = []
        for first, sign, second in steps:
            one, other = values[first], values[second]
            values["x"] = SIGNS[sign](one, other)
            written.append(f"{one} {sign} {other} = {values['x']}.")
        split = "validation" if number < len(KINDS) else "test"
        entry = {"question": question, "answer": str(values["x"]), "steps": " ".join(written), "split": split}
        yield json.dumps(entry)


if __name__ == "__main__":
    Path(__file__).with_suffix(".jsonl").write_text("\n".join(lines()) + "\n", encoding="utf-8")
