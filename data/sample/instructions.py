"""1,100 instructions in the book's JSON format, in file order: train, test, validation.

Splits hold out keys: no fact or sentence of the test and validation splits is in the training split in any wording.
They hold out wordings too: about half of the held-out entries use a wording that is not in the training split.
"""

from dataclasses import dataclass

from draw import Draw
from exercises import EXERCISES, SUM_OUTPUT, Item, divided, sum_slots
from wordings import WORDINGS
from world import Fact, facts

# Entries per kind for (train, test, validation), 935, 110 and 55 in all. The corpus teaches sums least.
COUNTS = {
    "opposite": (100, 9, 4),
    "past": (95, 9, 4),
    "plural": (75, 8, 4),
    "category": (90, 9, 4),
    "home": (55, 8, 4),
    "job": (55, 8, 4),
    "pet": (55, 8, 4),
    "den": (42, 7, 3),
    "sound": (42, 7, 3),
    "food": (30, 5, 2),
    "flag": (28, 4, 2),
    "sum": (34, 4, 2),
    "odd": (40, 4, 2),
    "passive": (44, 5, 3),
    "negative": (38, 4, 2),
    "question": (38, 4, 2),
    "tense": (38, 4, 3),
    "swap": (36, 3, 3),
}
N_ITEMS = {kind: sum(COUNTS[kind]) for kind in EXERCISES}  # one item per entry
TRAIN_WORDINGS, TEST_WORDINGS = 6, 3  # of ten; the last one is for validation only


@dataclass(frozen=True)
class Entry:
    """One instruction, with the key and the wording that splits hold out."""

    instruction: str
    input: str
    output: str
    key: str
    wording: str

    def as_json(self) -> dict[str, str]:
        """The entry as written to the file."""
        return {"instruction": self.instruction, "input": self.input, "output": self.output}


def entries(split_seed: int) -> list[Entry]:
    """All entries in file order: the first 85 % train, the next 10 % test, the last 5 % validation."""
    draw = Draw(2000 + split_seed)
    parts = ([], [], [])
    for kind in COUNTS:
        for part, found in zip(parts, _split_kind(draw, kind), strict=True):
            part.extend(found)
    return [entry for part in parts for entry in draw.shuffled(part)]


def every_instruction() -> list[Entry]:
    """Every entry that a split can contain: all wordings of all facts and items."""
    return [render(wording, thing) for kind in COUNTS for thing in _things(kind) for wording in _wordings(kind)]


def render(wording: str, thing: Fact | Item) -> Entry:
    """A wording ("instruction" or "instruction | input") filled with a fact or an exercise."""
    if isinstance(thing, Fact):
        slots, output = thing.slots, WORDINGS[thing.kind].output.format(**thing.slots)
    elif thing.kind == "sum":
        slots, output = sum_slots(thing), SUM_OUTPUT.format(**sum_slots(thing))
    else:
        slots, output = thing.slots, thing.answer
    instruction, _, given = wording.partition(" | ")
    return Entry(instruction.format(**slots), given.format(**slots), output, thing.key, wording)


def _things(kind: str) -> list[Fact] | list[Item]:
    if kind in EXERCISES:
        return divided(kind, N_ITEMS[kind])[1]
    return [fact for fact in facts() if fact.kind == kind]


def _wordings(kind: str) -> tuple[str, ...]:
    return EXERCISES[kind].instructions if kind in EXERCISES else WORDINGS[kind].instructions


def _split_kind(draw: Draw, kind: str) -> list[list[Entry]]:
    """The entries of one kind for train, test and validation."""
    wordings = draw.shuffled(_wordings(kind))
    seen, new = wordings[:TRAIN_WORDINGS], wordings[TRAIN_WORDINGS:]
    new_of_part = [[], new[:TEST_WORDINGS], new[TEST_WORDINGS:]]
    return [
        _combined(draw, things, seen, unseen, n)
        for things, unseen, n in zip(_split_things(draw, kind), new_of_part, COUNTS[kind], strict=True)
    ]


def _split_things(draw: Draw, kind: str) -> list[list[Fact | Item]]:
    """The facts or items of one kind for train, test and validation; those with the same key stay together."""
    things = _things(kind)
    keys = draw.shuffled(dict.fromkeys(thing.key for thing in things))
    n_test = max(2, len(keys) * COUNTS[kind][1] // sum(COUNTS[kind]), -(-COUNTS[kind][1] // 3))
    n_validation = max(1, len(keys) * COUNTS[kind][2] // sum(COUNTS[kind]))
    test, validation = keys[:n_test], keys[n_test : n_test + n_validation]
    return [
        [thing for thing in things if thing.key not in test + validation],
        [thing for thing in things if thing.key in test],
        [thing for thing in things if thing.key in validation],
    ]


def _combined(draw: Draw, things: list, seen: list[str], unseen: list[str], n: int) -> list[Entry]:
    """n different entries: all things in turn, with seen and unseen wordings alternating."""
    found = {}
    queues = {id(thing): _alternating(draw, seen, unseen) for thing in things}
    while len(found) < n:
        for thing in draw.shuffled(things):
            if len(found) < n and queues[id(thing)]:
                entry = render(queues[id(thing)].pop(), thing)
                found[(entry.instruction, entry.input)] = entry
    return list(found.values())


def _alternating(draw: Draw, seen: list[str], unseen: list[str]) -> list[str]:
    """All wordings in random order, seen and unseen ones alternating as long as possible."""
    seen, unseen = draw.shuffled(seen), draw.shuffled(unseen)
    first, second = (seen, unseen) if draw.chance(0.5) else (unseen, seen)
    mixed = [wording for pair in zip(first, second, strict=False) for wording in pair]
    rest = first[len(second) :] or second[len(first) :]
    return rest[::-1] + mixed[::-1]
