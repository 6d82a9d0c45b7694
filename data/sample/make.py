"""Write the sample data: corpus.txt, spam.tsv, instructions.json and facts.json, from fixed seeds.

python data/sample/make.py [--out DIR] [--split-seed N]

The committed files have the default split seed. Another seed holds out other facts, wordings and message patterns. The
corpus and facts.json do not change.
"""

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import corpus  # noqa: E402
import instructions  # noqa: E402
import spam  # noqa: E402
import world  # noqa: E402
from wordings import WORDINGS  # noqa: E402

SPLIT_SEED = 0


def corpus_text() -> str:
    """The corpus. It contains no instruction of any split."""
    text = corpus.corpus_text()
    leaks = leaked(text, [entry.as_json() for entry in instructions.every_instruction()])
    assert not leaks, f"the corpus contains instructions word for word: {leaks[:3]}"
    return text


def spam_lines(split_seed: int = SPLIT_SEED) -> list[str]:
    """The lines of spam.tsv without line endings."""
    return spam.spam_lines(split_seed)


def instruction_entries(split_seed: int = SPLIT_SEED) -> list[dict[str, str]]:
    """The entries of instructions.json."""
    return [entry.as_json() for entry in instructions.entries(split_seed)]


def instruction_keys(split_seed: int = SPLIT_SEED) -> list[str]:
    """The key of each entry of instructions.json, in the same order."""
    return [entry.key for entry in instructions.entries(split_seed)]


def facts() -> list[dict[str, str]]:
    """One cloze question per fact: a model knows the fact if its greedy continuation of `prompt` is `answer`."""
    return [
        {
            "key": f"{fact.kind}/{fact.x}",
            "prompt": WORDINGS[fact.kind].probe.format(**fact.slots),
            "answer": f" {fact.y}",
        }
        for fact in world.facts()
    ]


def leaked(text: str, entries: list[dict[str, str]]) -> list[str]:
    """The instructions without input that occur in `text`, and the instructions and inputs that are a line of it."""
    words = _plain(text)
    lines = {_plain(line) for line in text.splitlines()}
    asked = {entry["instruction"] for entry in entries if not entry["input"]}
    texts = {entry[field] for entry in entries for field in ("instruction", "input") if entry[field]}
    return sorted({t for t in asked if _plain(t) in words} | {t for t in texts if _plain(t) in lines})


def write(out: Path, split_seed: int) -> None:
    """Write the four files into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "corpus.txt": corpus_text(),
        "spam.tsv": "".join(line + "\n" for line in spam_lines(split_seed)),
        "instructions.json": json.dumps(instruction_entries(split_seed), indent=4, ensure_ascii=False) + "\n",
        "facts.json": json.dumps(facts(), indent=1) + "\n",
    }
    for name, text in files.items():
        (out / name).write_bytes(text.encode("utf-8"))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--split-seed", type=int, default=SPLIT_SEED)
    args = parser.parse_args()
    write(args.out, args.split_seed)


if __name__ == "__main__":
    main()
