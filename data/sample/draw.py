"""Random choices that are the same on every machine and Python version: they use Random.random() only."""

import random


class Draw:
    """A seeded source of random choices."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def below(self, n: int) -> int:
        """An integer in [0, n)."""
        return int(self._random.random() * n)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def digits(self, n: int) -> str:
        """A string of n random digits."""
        return "".join(str(self.below(10)) for _ in range(n))

    def pick(self, items):
        """A random item."""
        return items[self.below(len(items))]

    def shuffled(self, items) -> list:
        """A new list of the items in random order (Fisher-Yates)."""
        items = list(items)
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items

    def sample(self, items, n: int) -> list:
        """At most n different items in random order."""
        return self.shuffled(items)[:n]


class Decks:
    """Deals the items of each deck in random order, and reshuffles a deck when it is empty."""

    def __init__(self, draw: Draw):
        self._draw = draw
        self._left = {}

    def deal(self, name, items):
        """The next item of the deck `name`, which contains `items`."""
        if not self._left.get(name):
            self._left[name] = self._draw.shuffled(items)
        return self._left[name].pop()
