"""Generated problems. A family draws as many as are wanted; each is a function of the seed and its number."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from llm.common.params import Problem as ParamProblem
from llm.common.params import positive
from llm.common.seeds import derive
from llm.reason.problems import Problem

DRAWS = 1_000_000  # at most, of one family


@dataclass(frozen=True)
class Clock:
    """Moves on a clock: `4+3+6+2` is the hour 4, three on, six on, two on. The steps are the hours on the way.

    One step is a table with few entries, which a small model learns soon. All moves at a glance it does not learn.
    """

    hours: int  # 7 are the days of a week
    moves: int

    def problems(self) -> Iterator[ParamProblem]:
        if not 2 <= self.hours <= 10:
            yield "hours", f"{self.hours} is not from 2 to 10", "an hour is one digit"
        yield from positive(self, "moves")

    def draw(self, random: random.Random) -> Problem:
        """A start, then moves of at least one hour."""
        hour = random.randrange(self.hours)
        text, steps = str(hour), ""
        for _ in range(self.moves):
            move = random.randrange(1, self.hours)
            hour = (hour + move) % self.hours
            text, steps = f"{text}+{move}", f"{steps}{hour}"
        return Problem(text, str(hour), steps)


@dataclass(frozen=True)
class Addition:
    """Sums of several numbers. The steps are the sums of the columns with the carry, from the right, two digits each.

    `274+938+561` has the steps `13 17 17`: 4+8+1 = 13, 7+3+6 and 1 carried = 17, 2+9+5 and 1 carried = 17. Then the
    answer can be read off: 1773.
    """

    terms: int
    digits: int

    def problems(self) -> Iterator[ParamProblem]:
        if not 2 <= self.terms <= 10:
            yield "terms", f"{self.terms} is not from 2 to 10", "the sum of a column has at most two digits"
        yield from positive(self, "digits")

    def draw(self, random: random.Random) -> Problem:
        """Numbers of `digits` digits, also with zeros in front."""
        rows = [[random.randrange(10) for _ in range(self.digits)] for _ in range(self.terms)]
        carry, columns = 0, []
        for column in range(self.digits - 1, -1, -1):
            total = sum(row[column] for row in rows) + carry
            columns.append(f"{total:02}")
            carry = total // 10
        answer = columns[-1] + "".join(total[1] for total in columns[-2::-1])
        return Problem("+".join("".join(map(str, row)) for row in rows), answer, " ".join(columns))


Family = Clock | Addition


def draws(family: Family, seed: int) -> Iterator[Problem]:
    """Problems of a family, perhaps some of them twice."""
    name = type(family).__name__.lower()
    for number in range(DRAWS):
        yield family.draw(random.Random(derive(seed, name, number)))
