"""Short stories about the people and animals of the invented world, assembled from lists of sentences."""

from draw import Draw
from exercises import GOODS, PLACES, THINGS
from world import ANIMALS, OPPOSITES, PAST, PEOPLE, PLURALS, TOWNS, rows

OPENINGS = (
    "One morning {a} woke before the sun and went out.",
    "It was a cold day in {town}, and {a} stood at the window.",
    "Last spring {a} found a {thing} by the {place}.",
    "{a} the {job} had nothing to do that day.",
    "There was once a {job} in {town} whose name was {a}.",
    "The rain had stopped, and {a} took the {pet} to the {place}.",
    "Nobody in {town} had seen {a} for a week.",
    "{a} sat in the house in {town} and thought of {b}.",
    "In the year of the great snow, {a} ran out of {good}.",
    "{a} and {b} had been friends since they were children.",
)
TROUBLES = (
    "But the {thing} was gone, and so was the {pet}.",
    "The {pet} had run away in the night.",
    "{She} wanted {good}, and there was none in the house.",
    "A thief had taken the {thing} while {she} slept.",
    "{She} could not open the {thing}, for it was too {adj}.",
    "The road to {btown} was long, and the bag was heavy.",
    "From the {place} came a strange {sound}.",
    "The {thing} fell into the river and broke.",
    "{She} had lost the way, and it grew dark.",
    "The {animal} stood in the middle of the road.",
)
EVENTS = (
    "So {she} went to {btown} to ask {b}, the {bjob}.",
    "{She} saw three {plural} near the {place}.",
    "On the way {she} met {b}, who lives in {btown}.",
    "An old man sold {her} some {good} for two pounds.",
    "{She} heard the {sound} of the {animal} and ran.",
    "{She} looked into the {den} of the {animal}.",
    "The {pet} of {a} was not afraid of the {animal}.",
    "{b} brought the {bpet} along.",
    "They ate {good} and drank cold water.",
    "{She} wrote a letter to {b} and kept it in the {thing}.",
    "{b} said: the {thing} was {adj} yesterday, and today it is {opposite}.",
    '"I {verb} every day," said {b}, and indeed {b} {past}.',
    "They came to {town2}, where people make {food2}.",
    "Over the roofs of {town2} flew a {flag2} flag.",
    "{She} counted one {singular}, and then {she} counted many {plural}.",
    '"Is it {adj}?" asked {b}. "No, {opposite}," said {a}.',
    "The {animal} went back to its {den}.",
    "{b} had seen the {pet} behind the {place}.",
)
ENDINGS = (
    "In the evening {a} was home in {town} again.",
    "After that {a} and {b} met every week.",
    "{a} gave the {pet} some {good} and went to bed.",
    "And that is how {b}, the {bjob}, found the {thing}.",
    "{a} told the story to everybody in {town}.",
    "{She} never lost the {thing} again.",
    "Then the {pet} slept, and {a} slept too.",
    '"A good day," said {b}, and they laughed.',
    "Since then the people of {btown} call {b} a friend.",
    "It was late when they shut the door.",
)


def story(draw: Draw) -> str:
    """One story of five to eight sentences about two people."""
    slots = _cast(draw)
    parts = [draw.pick(OPENINGS), draw.pick(TROUBLES), *draw.sample(EVENTS, 2 + draw.below(4)), draw.pick(ENDINGS)]
    sentences = [part.format(**slots) for part in parts]
    return " ".join(sentence[:1].upper() + sentence[1:] for sentence in sentences)


def _cast(draw: Draw) -> dict[str, str]:
    """The people and things of a story; all facts are true in the invented world."""
    (a, she, town, job, pet), (b, _, btown, bjob, bpet) = draw.sample(rows(PEOPLE), 2)
    animal, den, sound = draw.pick(rows(ANIMALS))
    town2, food2, flag2 = draw.pick(rows(TOWNS))
    adj, opposite = draw.shuffled(draw.pick(rows(OPPOSITES)))
    verb, past = draw.pick(rows(PAST))
    singular, plural = draw.pick(rows(PLURALS))
    return {
        "a": a,
        "she": she,
        "She": she.capitalize(),
        "her": {"she": "her", "he": "him"}[she],
        "town": town,
        "job": job,
        "pet": pet,
        "b": b,
        "btown": btown,
        "bjob": bjob,
        "bpet": bpet,
        "animal": animal,
        "den": den,
        "sound": sound,
        "town2": town2,
        "food2": food2,
        "flag2": flag2,
        "adj": adj,
        "opposite": opposite,
        "verb": verb,
        "past": past,
        "singular": singular,
        "plural": plural,
        "thing": draw.pick(THINGS),
        "place": draw.pick(PLACES),
        "good": draw.pick(GOODS),
    }
