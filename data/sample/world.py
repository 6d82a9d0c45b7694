"""The invented world of the sample data: 210 facts.

A fact has a kind and a key, and splits hold out facts by key. Both directions of a pair of opposites have the same key,
so that a held-out pair is not in the training split in either direction.
"""

from dataclasses import dataclass

OPPOSITES = """hot cold, big small, tall short, fast slow, heavy light, early late, open shut, happy sad,
    hard soft, full empty, rich poor, wet dry, young old, clean dirty, loud quiet, thick thin, near far,
    strong weak, deep shallow, wide narrow"""

CATEGORIES = {
    "fruit": "pear plum cherry fig",
    "fish": "trout salmon eel herring",
    "bird": "robin heron swallow wren",
    "flower": "tulip daisy lily poppy",
    "tool": "hammer chisel spade rake",
    "instrument": "flute drum violin harp",
    "tree": "oak birch willow maple",
    "vehicle": "cart barge wagon tram",
}

PAST = """go went, eat ate, see saw, take took, give gave, run ran, sing sang, swim swam, drink drank,
    write wrote, drive drove, ride rode, break broke, speak spoke, steal stole, wake woke, choose chose,
    know knew, grow grew, throw threw, fly flew, draw drew, buy bought, bring brought, think thought,
    catch caught, teach taught, find found, sleep slept, keep kept"""

PLURALS = """mouse mice, goose geese, child children, foot feet, tooth teeth, man men, woman women, ox oxen,
    leaf leaves, wolf wolves, knife knives, loaf loaves, shelf shelves, calf calves, thief thieves,
    scarf scarves, wife wives, half halves, person people, city cities"""

# name, pronoun, home town, job, pet
PEOPLE = """Anna she Dunmore baker parrot, Ben he Harwick teacher cat, Clara she Selmouth farmer goat,
    David he Ashbury doctor rabbit, Emma she Brinton painter dog, Frank he Melford tailor hen,
    Grace she Kelbrook miller pony, Henry he Tarrow sailor tortoise, Iris she Harwick nurse goat,
    Jack he Dunmore gardener rabbit, Kate she Ashbury carpenter cat, Leo he Selmouth librarian parrot,
    Mary she Tarrow potter pony, Nora she Melford shepherd dog, Oscar he Brinton clerk tortoise,
    Paul he Kelbrook cook hen"""

# animal, home, sound
ANIMALS = """bear den growl, bee hive buzz, horse stable neigh, pig sty grunt, dog kennel bark, hen coop cluck,
    cow barn moo, frog pond croak, wolf lair howl, sheep fold bleat, lion cave roar, owl hollow hoot"""

# town, food it is known for, colour of its flag
TOWNS = """Dunmore cheese green, Harwick honey red, Selmouth bread blue, Ashbury cider white,
    Brinton mustard black, Melford ginger yellow, Kelbrook butter brown, Tarrow pepper purple"""

SUMMANDS = range(1, 7)


@dataclass(frozen=True)
class Fact:
    """A fact of some kind: `y` is the answer for `x`. Splits hold out facts by `key`."""

    kind: str
    x: str
    y: str
    key: str
    pronoun: str = "it"

    @property
    def slots(self) -> dict[str, str]:
        """Values for the placeholders of wordings.py."""
        return {
            "x": self.x,
            "y": self.y,
            "X": capital(self.x),
            "Y": capital(self.y),
            "ax": with_article(self.x),
            "Ax": capital(with_article(self.x)),
            "ay": with_article(self.y),
            "she": self.pronoun,
            "She": capital(self.pronoun),
            "her": {"she": "her", "he": "his", "it": "its"}[self.pronoun],
        }


def rows(table: str) -> list[list[str]]:
    """The rows of a table of comma-separated groups of words."""
    return [row.split() for row in table.split(",")]


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def with_article(noun: str) -> str:
    """The noun with `a` or `an`."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def simple(kind: str, x: str, y: str, pronoun: str = "it") -> Fact:
    """A fact whose key is its kind and `x`."""
    return Fact(kind, x, y, f"{kind}/{x}", pronoun)


def facts() -> list[Fact]:
    """Every fact of the world, in a fixed order."""
    found = []
    for a, b in rows(OPPOSITES):
        key = f"opposite/{a}-{b}"
        found += [Fact("opposite", a, b, key), Fact("opposite", b, a, key)]
    for category, members in CATEGORIES.items():
        found += [simple("category", member, category) for member in members.split()]
    found += [simple("past", x, y) for x, y in rows(PAST)]
    found += [simple("plural", x, y) for x, y in rows(PLURALS)]
    for name, pronoun, town, job, pet in rows(PEOPLE):
        found += [
            simple("home", name, town, pronoun),
            simple("job", name, job, pronoun),
            simple("pet", name, pet, pronoun),
        ]
    for animal, home, sound in rows(ANIMALS):
        found += [simple("den", animal, home), simple("sound", animal, sound)]
    for town, food, colour in rows(TOWNS):
        found += [simple("food", town, food), simple("flag", town, colour)]
    return found


def sums() -> list[Fact]:
    """Small sums in both orders; both orders have the same key."""
    return [Fact("sum", f"{a} {b}", str(a + b), f"sum/{min(a, b)}+{max(a, b)}") for a in SUMMANDS for b in SUMMANDS]
