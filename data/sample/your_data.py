"""Write the data of docs/your-data.md, always the same: `python -m data.sample.your_data FOLDER`.

- garden/: a folder of texts in .md, .txt and .jsonl, in sub-folders.
- reviews.csv: reviews of four classes. What was good is told by the order of the words, not by the words.
- sentiment.jsonl: texts of two classes, with "not" and "but".
- chats.jsonl: chats in German. The second question is about the plant of the first one.
"""

import argparse
import csv
import io
import json
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from draw import Draw

# English name, colour, month, place; German article, name, pronoun, colour, month, place
PLANTS = (
    ("tulip", "red", "April", "by the gate", "die", "Tulpe", "sie", "rot", "April", "am Tor"),
    ("crocus", "purple", "March", "under the oak", "der", "Krokus", "er", "lila", "März", "unter der Eiche"),
    ("rose", "pink", "June", "along the wall", "die", "Rose", "sie", "rosa", "Juni", "an der Mauer"),
    ("sunflower", "yellow", "August", "behind the shed", "die", "Sonnenblume", "sie", "gelb", "August", "am Schuppen"),
    ("aster", "blue", "September", "near the pond", "die", "Aster", "sie", "blau", "September", "am Teich"),
    ("snowdrop", "white", "February", "beside the path", "das", "Schneeglöckchen", "es", "weiß", "Februar", "am Weg"),
    ("poppy", "orange", "May", "in the meadow", "der", "Mohn", "er", "orange", "Mai", "auf der Wiese"),
    ("heather", "violet", "October", "on the hill", "das", "Heidekraut", "es", "violett", "Oktober", "auf dem Hügel"),
)
WORKS = ("watered", "planted", "weeded", "cut", "moved", "measured")
PEOPLE = ("Anna", "Ben", "Clara", "David", "Emma", "Felix")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

SUBJECTS = {
    "food": ("food", "soup", "bread", "fish", "cake", "tea", "meat", "rice"),
    "service": ("service", "waiter", "owner", "cook", "boy at the door", "girl at the table", "team", "man at the bar"),
}
GOOD = ("good", "great", "nice", "perfect")
BAD = ("bad", "poor", "awful", "terrible")
THINGS = ("film", "book", "song", "play", "story", "show", "game", "talk")


def garden(draw: Draw) -> dict[str, str]:
    """The texts of garden/, by path."""
    texts = {}
    for name, colour, month, place, *_ in PLANTS:
        lines = [f"# The {name}"]
        for _ in range(12):
            facts = (
                f"The {name} is {colour}.",
                f"The {name} blooms in {month}.",
                f"The {name} grows {place}.",
                f"In {month} you see the {colour} {name} {place}.",
            )
            lines.append(" ".join(draw.shuffled(facts)))
        texts[f"flowers/{name}.md"] = "\n\n".join(lines) + "\n"

    def note() -> str:
        name, colour, month, place, *_ = draw.pick(PLANTS)
        did = f"On {draw.pick(DAYS)} {draw.pick(PEOPLE)} {draw.pick(WORKS)} the {name} {place}."
        seen = f"It is {colour} and blooms in {month}."
        return f"{did} {seen}"

    for year in ("2023", "2024"):
        texts[f"notes/{year}.txt"] = "\n\n".join(note() for _ in range(250)) + "\n"
    texts["log.jsonl"] = "".join(json.dumps({"id": i, "text": note()}) + "\n" for i in range(250))
    return texts


def judged(draw: Draw, good: bool) -> str:
    """A judgement, a third of them with a negation: "not bad" is good."""
    negated = draw.chance(1 / 3)
    return ("not " if negated else "") + draw.pick(GOOD if good != negated else BAD)


def reviews(draw: Draw, n: int) -> list[tuple[str, str]]:
    """`n` different reviews of each class, each with a judgement of the food and one of the service."""
    forms = (
        "The {a} was {x}, but the {b} was {y}.",
        "The {a} was {x} and the {b} was {y}.",
        "We found the {a} {x}, the {b} {y}.",
        "{a}: {x}. {b}: {y}.",
    )
    kinds = {(True, True): "all good", (True, False): "food", (False, True): "service", (False, False): "all bad"}

    def text(food: bool, service: bool) -> str:
        parts = [
            (draw.pick(SUBJECTS["food"]), judged(draw, food)),
            (draw.pick(SUBJECTS["service"]), judged(draw, service)),
        ]
        (a, x), (b, y) = draw.shuffled(parts)
        made = draw.pick(forms).format(a=a, x=x, b=b, y=y)
        return made[0].upper() + made[1:]

    return different(draw, {label: lambda k=kind: text(*k) for kind, label in kinds.items()}, n)


def sentiments(draw: Draw, n: int) -> list[tuple[str, str]]:
    """`n` different texts of each class: only the last judgement counts."""
    forms = (
        "I thought the {a} would be {x}, but it was {y}.",
        "They said the {a} was {x}. I say it was {y}.",
        "The {a} began {x} and ended {y}.",
        "The {a} was {y}, although the {b} before was {x}.",
        "The {a} was {y}, and I had heard it was {x}.",
    )

    def text(good: bool) -> str:
        words = {"x": judged(draw, draw.chance(0.5)), "y": judged(draw, good)}
        a, b = draw.sample(THINGS, 2)
        return draw.pick(forms).format(a=a, b=b, **words)

    return different(draw, {"positive": lambda: text(True), "negative": lambda: text(False)}, n)


def different(draw: Draw, classes, n: int) -> list[tuple[str, str]]:
    """`n` texts of each class, all different, as (text, label) in random order."""
    found = defaultdict(dict)
    for label, make in classes.items():
        while len(found[label]) < n:
            found[label][make()] = None
    return draw.shuffled([(text, label) for label, texts in found.items() for text in texts])


def chats(draw: Draw, n: int) -> list[dict]:
    """`n` different chats of two questions and two answers."""
    opening = {
        "colour": ("Welche Farbe hat {}?", "Was für eine Farbe hat {}?", "Sag mir: Welche Farbe hat {}?"),
        "month": ("Wann blüht {}?", "In welchem Monat blüht {}?", "Sag mir: Wann blüht {}?"),
        "place": ("Wo wächst {}?", "An welchem Ort wächst {}?", "Sag mir: Wo wächst {}?"),
    }
    following = {
        "colour": ("Und welche Farbe hat {}?", "Welche Farbe hat {}?", "Welche Farbe hat {} denn?"),
        "month": ("Und wann blüht {}?", "Wann blüht {}?", "Wann blüht {} denn?"),
        "place": ("Und wo wächst {}?", "Wo wächst {}?", "Wo wächst {} denn?"),
    }

    def chat() -> str:
        article, name, pronoun, colour, month, place = draw.pick(PLANTS)[4:]
        answers = {"colour": f"ist {colour}", "month": f"blüht im {month}", "place": f"wächst {place}"}
        first, second = draw.sample(sorted(answers), 2)
        texts = (
            draw.pick(opening[first]).format(f"{article} {name}"),
            f"{article.capitalize()} {name} {answers[first]}.",
            draw.pick(following[second]).format(pronoun),
            f"{article.capitalize()} {name} {answers[second]}.",
        )
        roles = ("user", "assistant") * 2
        turns = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
        return json.dumps(turns, ensure_ascii=False)

    return [{"messages": json.loads(text)} for text, _ in different(draw, {"chat": chat}, n)]


def write(out: Path) -> None:
    """Write all files into `out`."""
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([("Review", "What was good"), *reviews(Draw(1), 250)])
    texts = {f"garden/{name}": text for name, text in garden(Draw(0)).items()}
    texts["reviews.csv"] = rows.getvalue()
    texts["sentiment.jsonl"] = lines({"text": text, "sentiment": label} for text, label in sentiments(Draw(2), 400))
    texts["chats.jsonl"] = lines(chats(Draw(3), 400))
    for name, text in texts.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8"))


def lines(entries) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def main() -> None:
    """Write the data into the folder that is given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
