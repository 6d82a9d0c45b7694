"""The pretraining corpus: stories, statements, questions, lessons, exercises and messages, as shuffled documents.

It does not depend on the split seed, so that one pretrained model can be used for every split.
"""

from draw import Decks, Draw
from exercises import EXERCISES, SUM_STATEMENTS, Exercise, Item, divided, sum_slots
from instructions import N_ITEMS
from notes import note
from stories import story
from wordings import WORDINGS
from world import PEOPLE, Fact, capital, facts, rows

SEED = 1
ROUNDS = {"statements": 14, "questions": 30, "lessons": 16}  # how often each fact occurs in each form
PLAINEST = 4  # copies of the plainest wording in a deck
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
    """All documents, separated by blank lines."""
    draw = Draw(SEED)
    documents = _statements(draw) + _questions(draw) + _lessons(draw) + _exercises(draw) + _sums(draw)
    documents += [story(draw) for _ in range(N_STORIES)] + [note(draw) for _ in range(N_NOTES)]
    return "\n\n".join(draw.shuffled(documents)) + "\n"


def _statements(draw: Draw) -> list[str]:
    """Paragraphs of three to six statements with every fact once per round, and portraits of all people."""
    documents, decks = [], Decks(draw)
    for _ in range(ROUNDS["statements"]):
        told = [_said(decks, fact) for fact in draw.shuffled(facts())]
        documents += [" ".join(chunk) for chunk in _chunks(draw, told, 3, 6)]
        documents += [_portrait(draw, decks, name) for name, *_ in rows(PEOPLE)]
    return documents


def _said(decks: Decks, fact: Fact) -> str:
    """A statement of the fact. All wordings are used in turn, the plainest more often."""
    wording = WORDINGS[fact.kind]
    deck = wording.statements + (wording.output,) * PLAINEST
    return decks.deal((fact.kind, fact.x), deck).format(**fact.slots)


def _portrait(draw: Draw, decks: Decks, name: str) -> str:
    """All facts about one person, first with the name and then sometimes with the pronoun."""
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
    """One question per document, so that windows rarely separate a question from its answer."""
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
    """A task with its answer, as a word or a sentence."""
    wording = WORDINGS[fact.kind]
    task = draw.pick(wording.lessons).format(**fact.slots)
    layout = draw.pick(SENTENCE_LAYOUTS if draw.chance(0.6) else LESSON_LAYOUTS)
    return layout.format(
        task=task, Task=capital(task), answer=fact.y, Answer=capital(fact.y), a=wording.output.format(**fact.slots)
    )


def _exercises(draw: Draw) -> list[str]:
    """Exercises that do not occur in the instruction data."""
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
    """The items in chunks of `least` to `most`."""
    items, chunks = list(items), []
    while items:
        n = least + draw.below(most - least + 1)
        chunks.append(items[:n])
        items = items[n:]
    return chunks
