"""Exercises that do not need a fact: rewriting a sentence, finding the odd one out, small sums.

Each kind has a large set of items. A fixed seed splits it into items for the corpus and items for the instruction
data, and no item is in both. Sums are an exception. There are too few of them, so the corpus states them all, like
facts.
"""

from dataclasses import dataclass
from itertools import combinations, permutations, product

from draw import Draw
from world import CATEGORIES, OPPOSITES, rows, sums

ROLES = "baker teacher farmer doctor painter miller sailor nurse gardener cook king".split()
THINGS = "plate window door basket box boat chair bottle table letter lamp gate".split()
DEEDS = "washed painted carried cleaned repaired opened watched lifted filled moved".split()
LIKINGS = "like want need sell make keep".split()
GOODS = "honey bread butter cheese milk rice salt tea soup jam".split()
PLACES = "market river farm church bridge school harbour forest station garden".split()
STEPS = "walk return rush march jump wander turn crawl".split()
PAIRED = """milk bread salt honey tea soup rice jam corn wood stone sand glass wool paper hats shoes pots pans
    forks spoons ropes nails sheets""".split()


@dataclass(frozen=True)
class Item:
    """One exercise: `text` is the input and `answer` the result; splits hold out items by `key`."""

    kind: str
    text: str
    answer: str
    key: str

    @property
    def slots(self) -> dict[str, str]:
        """Values for the placeholders of wordings."""
        return {"text": self.text, "answer": self.answer}


@dataclass(frozen=True)
class Exercise:
    """Wordings of one kind of exercise: lessons for the corpus, instructions for the instruction data."""

    lessons: tuple[str, ...]
    instructions: tuple[str, ...]  # "instruction" or "instruction | input"


EXERCISES = {
    "passive": Exercise(
        lessons=(
            "tell it from the side of the thing",
            "start with the thing, not with the person",
            "let the thing come first",
            "what happened to the thing?",
            "use the passive voice",
            "make it passive",
        ),
        instructions=(
            "Rewrite the sentence in the passive voice. | Sentence: {text}",
            "Change the following sentence to the passive voice. | Sentence: {text}",
            "Convert the active sentence to passive. | Sentence: {text}",
            "Turn this into a passive sentence: {text}",
            "Express the following in the passive voice. | Sentence: {text}",
            "Transform the sentence into passive voice: {text}",
            "Use the passive voice to rewrite the sentence. | Sentence: {text}",
            "Give the passive form of this sentence. | Sentence: {text}",
            "Put the sentence into the passive: {text}",
            "Rephrase in passive voice. | Sentence: {text}",
        ),
    ),
    "negative": Exercise(
        lessons=(
            "say that it is not so",
            "tell that this is false",
            "deny it",
            "say no to this",
            "negate it",
            "use the negative form",
        ),
        instructions=(
            "Rewrite the sentence in the negative. | Sentence: {text}",
            "Make the following sentence negative. | Sentence: {text}",
            "Negate this sentence: {text}",
            "Turn the statement into a negative one. | Sentence: {text}",
            "Change the sentence so that it says the contrary, using 'not'. | Sentence: {text}",
            "Transform the sentence into its negative form: {text}",
            "Add a negation to the sentence. | Sentence: {text}",
            "Give the negative form of this sentence. | Sentence: {text}",
            "Put the sentence into the negative: {text}",
            "Rephrase with a negation. | Sentence: {text}",
        ),
    ),
    "question": Exercise(
        lessons=(
            "ask whether it is so",
            "you do not know it: ask",
            "say this as somebody who asks",
            "put a question mark behind it",
            "make it a question",
        ),
        instructions=(
            "Rewrite the sentence as a question. | Sentence: {text}",
            "Turn the following statement into a question. | Sentence: {text}",
            "Make a question from this sentence: {text}",
            "Convert the statement to a question. | Sentence: {text}",
            "Change the sentence into a yes-or-no question. | Sentence: {text}",
            "Transform the sentence into a question: {text}",
            "Form a question out of the statement. | Sentence: {text}",
            "Give the question form of this sentence. | Sentence: {text}",
            "Put the sentence into question form: {text}",
            "Rephrase as a question. | Sentence: {text}",
        ),
    ),
    "tense": Exercise(
        lessons=(
            "tell it as if it was yesterday",
            "say that it happened last week",
            "this is long over: tell it so",
            "move the story back one day",
            "use the past tense",
        ),
        instructions=(
            "Rewrite the sentence in the past tense. | Sentence: {text}",
            "Change the following sentence to the past tense. | Sentence: {text}",
            "Convert the present-tense sentence to past tense. | Sentence: {text}",
            "Turn this sentence into the past: {text}",
            "Express the following sentence in the simple past. | Sentence: {text}",
            "Transform the sentence into past tense: {text}",
            "Use the past tense to rewrite the sentence. | Sentence: {text}",
            "Give the past-tense version of this sentence. | Sentence: {text}",
            "Put the sentence into the past tense: {text}",
            "Rephrase in the past tense. | Sentence: {text}",
        ),
    ),
    "swap": Exercise(
        lessons=(
            "say the last first",
            "turn the pair around",
            "begin with the other",
            "let the two change places",
            "swap the two",
            "reverse the order",
        ),
        instructions=(
            "Swap the two nouns. | Phrase: {text}",
            "Reverse the order of the given phrase. | Phrase: {text}",
            "Exchange the words around 'and'. | Phrase: {text}",
            "Write this phrase in reverse order: {text}",
            "Switch the order of the two nouns. | Phrase: {text}",
            "Invert the order of the words: {text}",
            "Rewrite the phrase with its nouns exchanged. | Phrase: {text}",
            "Give the phrase in the other order. | Phrase: {text}",
            "Reorder the phrase so that the second noun leads: {text}",
            "Rearrange back to front. | Phrase: {text}",
        ),
    ),
    "odd": Exercise(
        lessons=(
            "find the stranger",
            "one is not like the others",
            "who does not fit?",
            "throw one out",
            "pick the odd one",
            "which one does not belong?",
        ),
        instructions=(
            "Pick the odd one out. | Words: {text}",
            "Which word does not belong in the list? | Words: {text}",
            "Identify the word that does not fit. | Words: {text}",
            "Select the odd word from this list: {text}",
            "Find the item that does not belong. | Words: {text}",
            "Spot the word of another category: {text}",
            "Choose the word that is unlike the rest. | Words: {text}",
            "Give the odd one out. | Words: {text}",
            "Name the item that does not match: {text}",
            "Determine the outlier. | Words: {text}",
        ),
    ),
    "sum": Exercise(
        lessons=(
            "add up {a} and {b}",
            "count {a} and {b} together",
            "put {b} on top of {a}",
            "{a} and {b} make",
            "say what {a} + {b} gives",
        ),
        instructions=(
            "What is {a} + {b}?",
            "Calculate {a} + {b}.",
            "Add {a} and {b}.",
            "Find the sum of {a} and {b}.",
            "Work out the sum. | {a} + {b}",
            "Compute {a} + {b}.",
            "What do you get when you add {a} and {b}?",
            "Evaluate the expression. | {a} + {b}",
            "What is the sum of {a} and {b}?",
            "Tell me the result of {a} + {b}.",
        ),
    ),
}

SUM_STATEMENTS = (
    "{a} and {b} make {y}.",
    "{a} and {b} are {y}.",
    "If you have {a} and get {b} more, you have {y}.",
    "Take {a}, put {b} on top, and count {y}.",
    "{a} plus {b} is {y}.",
    "We added {a} to {b} and found {y}.",
    "The sum of {a} and {b} is {y}.",
    "{a} + {b} = {y}.",
    "{a} + {b}? The sum of {a} and {b} is {y}.",
    "How much are {a} and {b}? The sum of {a} and {b} is {y}.",
)
SUM_OUTPUT = "The sum of {a} and {b} is {y}."


def universe(kind: str) -> list[Item]:
    """All items of one kind, in a fixed order."""
    return {
        "passive": _passive,
        "negative": _negative,
        "question": _question,
        "tense": _tense,
        "swap": _swap,
        "odd": _odd,
        "sum": _sum,
    }[kind]()


def divided(kind: str, n_instructions: int, seed: int = 11) -> tuple[list[Item], list[Item]]:
    """The items of one kind for (corpus, instructions); they do not depend on the split seed."""
    items = Draw(seed).shuffled(universe(kind))
    if kind == "sum":
        return items, items
    return items[n_instructions:], items[:n_instructions]


def sum_slots(item: Item) -> dict[str, str]:
    """Values for the placeholders of a sum: its two numbers and the result."""
    a, b = item.text.split()
    return {"a": a, "b": b, "y": item.answer}


def _passive() -> list[Item]:
    return [
        Item(
            "passive",
            f"The {who} {did} the {what}.",
            f"The {what} was {did} by the {who}.",
            f"passive/{who}-{did}-{what}",
        )
        for who, did, what in product(ROLES, DEEDS, THINGS)
    ]


def _plain() -> list[tuple[str, str, str, str]]:
    """Simple sentences as (key, sentence, negative, question), shuffled."""
    adjectives = [word for pair in rows(OPPOSITES) for word in pair]
    states = [
        (f"{what}-{how}", f"The {what} is {how}.", f"The {what} is not {how}.", f"Is the {what} {how}?")
        for what, how in product(ROLES + THINGS, adjectives)
    ]
    likings = [
        (
            f"{who}-{verb}-{what}",
            f"The {who} {verb}s {what}.",
            f"The {who} does not {verb} {what}.",
            f"Does the {who} {verb} {what}?",
        )
        for who, verb, what in product(ROLES, LIKINGS, GOODS)
    ]
    return Draw(13).shuffled(states + likings)


def _negative() -> list[Item]:
    return [Item("negative", text, negative, f"negative/{key}") for key, text, negative, _ in _plain()[::2]]


def _question() -> list[Item]:
    return [Item("question", text, question, f"question/{key}") for key, text, _, question in _plain()[1::2]]


def _tense() -> list[Item]:
    third = {"rush": "rushes", "march": "marches"}
    return [
        Item(
            "tense",
            f"The {who} {third.get(verb, verb + 's')} to the {where}.",
            f"The {who} {verb}ed to the {where}.",
            f"tense/{who}-{verb}-{where}",
        )
        for who, verb, where in product(ROLES, STEPS, PLACES)
    ]


def _swap() -> list[Item]:
    draw = Draw(14)
    pairs = [draw.shuffled(pair) for pair in combinations(PAIRED, 2)]
    return [Item("swap", f"{a} and {b}", f"{b} and {a}", f"swap/{min(a, b)}-{max(a, b)}") for a, b in pairs]


def _odd() -> list[Item]:
    """Three members of one category and one of another, at any position."""
    draw, items = Draw(12), []
    categories = {name: members.split() for name, members in CATEGORIES.items()}
    for one, other in permutations(categories, 2):
        for three, odd in product(combinations(categories[one], 3), categories[other]):
            words = draw.shuffled([*three, odd])
            items.append(Item("odd", ", ".join(words), f"The odd one out is {odd}.", "odd/" + "-".join(sorted(words))))
    return items


def _sum() -> list[Item]:
    return [Item("sum", fact.x, fact.y, fact.key) for fact in sums()]
