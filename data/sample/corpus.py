"""The pretraining corpus: stories, statements, questions, lessons and messages, as documents in random order.

It does not depend on the split seed: one pretrained model serves every split.
"""

from draw import Decks, Draw
from exercises import EXERCISES, SUM_STATEMENTS, Exercise, Item, divided, sum_slots
from instructions import N_ITEMS
from notes import note
from stories import story
from wordings import WORDINGS
from world import PEOPLE, Fact, capital, facts, rows

SEED = 1
ROUNDS = {"statements": 14, "questions": 30, "lessons": 16}  # how often each fact is told in each way
PLAINEST = 4  # cards of the plainest wording in a deck
N_STORIES, N_NOTES, N_EXERCISES, N_SUM_ROUNDS = 240, 1100, 350, 8

QUESTION_LAYOUTS = (
    "Q: {q}\nA: {a}",
    "Question: {q} Answer: {a}",
    '"{q}" asked the {one}. "{a}"',
    "{q} {a}",
    "The {one}: {q}\nThe {other}: {a}",
    "{q}\n{a}",
    "Instruction: {q}\nResponse:\n{a}",
)
SPEAKERS = "boy girl guest uncle aunt king queen stranger".split()
LESSON_LAYOUTS = (
    "Task: {task}.\nAnswer: {answer}.",
    "Lesson: {task}.\nSolution: {answer}.",
    "Teacher: {Task}!\nPupil: {Answer}.",
    "{Task}: {answer}.",
    "[{task}] {answer}",
    "Please {task}. The answer is {answer}.",
    "A request that describes a task: {task}.\nA response that appropriately completes it: {answer}.",
)
SENTENCE_LAYOUTS = (
    "Task: {task}.\nAnswer: {a}",
    "{Task}.\n{a}",
    "Instruction: {Task}.\nResponse:\n{a}",
    "Please {task}. {a}",
    "A request that describes a task: {task}.\nA response that appropriately completes it:\n{a}",
)
EXERCISE_LAYOUTS = (
    "Task: {task}.\nText: {text}\nAnswer: {answer}",
    "Lesson: {task}.\nBefore: {text}\nAfter: {answer}",
    "Teacher: {text} Now {task}!\nPupil: {answer}",
    "{Task}. {text} -> {answer}",
    "[{task}] {text} | {answer}",
    "Text: {text}\nWhat to do: {task}.\nDone: {answer}",
    "Instruction: {task}.\nInput: {text}\nResponse: {answer}",
)


def corpus_text() -> str:
    """All documents, each followed by one blank line."""
    draw = Draw(SEED)
    documents = _statements(draw) + _questions(draw) + _lessons(draw) + _exercises(draw) + _sums(draw)
    documents += [story(draw) for _ in range(N_STORIES)] + [note(draw) for _ in range(N_NOTES)]
    return "\n\n".join(draw.shuffled(documents)) + "\n"


def _statements(draw: Draw) -> list[str]:
    """Paragraphs of three to six statements: every fact once a round, or all about one person."""
    documents, decks = [], Decks(draw)
    for _ in range(ROUNDS["statements"]):
        told = [_said(decks, fact) for fact in draw.shuffled(facts())]
        documents += [" ".join(chunk) for chunk in _chunks(draw, told, 3, 6)]
        documents += [_portrait(draw, decks, name) for name, *_ in rows(PEOPLE)]
    return documents


def _said(decks: Decks, fact: Fact) -> str:
    """A statement of the fact: each wording in its turn, the plainest more often."""
    wording = WORDINGS[fact.kind]
    deck = wording.statements + (wording.output,) * PLAINEST
    return decks.deal((fact.kind, fact.x), deck).format(**fact.slots)


def _portrait(draw: Draw, decks: Decks, name: str) -> str:
    """All that is known of one person, by name first and then by pronoun."""
    about = draw.shuffled(fact for fact in facts() if fact.x == name)
    first, *others = (_said(decks, fact) for fact in about)
    pronoun = capital(about[0].pronoun)
    return " ".join(
        [first]
        + [
            pronoun + other[len(name) :] if other.startswith(name + " ") and draw.chance(0.5) else other
            for other in others
        ]
    )


def _questions(draw: Draw) -> list[str]:
    """One question a document: a pair cut apart by the edge of a window teaches nothing."""
    return [_asked(draw, fact) for _ in range(ROUNDS["questions"]) for fact in facts()]


def _asked(draw: Draw, fact: Fact) -> str:
    wording = WORDINGS[fact.kind]
    one, other = draw.sample(SPEAKERS, 2)
    return draw.pick(QUESTION_LAYOUTS).format(
        q=draw.pick(wording.questions).format(**fact.slots), a=wording.output.format(**fact.slots), one=one, other=other
    )


def _lessons(draw: Draw) -> list[str]:
    return [_taught(draw, fact) for _ in range(ROUNDS["lessons"]) for fact in facts()]


def _taught(draw: Draw, fact: Fact) -> str:
    """A task with its answer, in a word or in a sentence."""
    wording = WORDINGS[fact.kind]
    task = draw.pick(wording.lessons).format(**fact.slots)
    layout = draw.pick(SENTENCE_LAYOUTS if draw.chance(0.6) else LESSON_LAYOUTS)
    return layout.format(
        task=task, Task=capital(task), answer=fact.y, Answer=capital(fact.y), a=wording.output.format(**fact.slots)
    )


def _exercises(draw: Draw) -> list[str]:
    """Exercises that the instruction data never ask for."""
    documents = []
    for kind, exercise in EXERCISES.items():
        if kind != "sum":
            items, _ = divided(kind, N_ITEMS[kind])
            documents += [_practised(draw, exercise, draw.pick(items)) for _ in range(N_EXERCISES)]
    return documents


def _practised(draw: Draw, exercise: Exercise, item: Item) -> str:
    task = draw.pick(exercise.lessons)
    return draw.pick(EXERCISE_LAYOUTS).format(task=task, Task=capital(task), text=item.text, answer=item.answer)


def _sums(draw: Draw) -> list[str]:
    documents, (items, _) = [], divided("sum", 0)
    for _ in range(N_SUM_ROUNDS):
        told = [draw.pick(SUM_STATEMENTS).format(**sum_slots(item)) for item in draw.shuffled(items)]
        documents += [" ".join(chunk) for chunk in _chunks(draw, told, 2, 4)]
        documents += [_summed(draw, item) for item in draw.shuffled(items)]
    return documents


def _summed(draw: Draw, item: Item) -> str:
    task = draw.pick(EXERCISES["sum"].lessons).format(**sum_slots(item))
    return draw.pick(LESSON_LAYOUTS).format(task=task, Task=capital(task), answer=item.answer, Answer=item.answer)


def _chunks(draw: Draw, items, least: int, most: int) -> list[list]:
    """The items in runs of `least` to `most`."""
    items, chunks = list(items), []
    while items:
        n = least + draw.below(most - least + 1)
        chunks.append(items[:n])
        items = items[n:]
    return chunks
