"""A thousand broken copies of an instruction file: each is refused, or read as the json module alone reads it."""

import json
import random
from pathlib import Path

from llm.errors import DATA, UserError
from llm.instructions import KEYS, read_entries

SAMPLE = Path(__file__).parents[2] / "data/sample/instructions.json"
PIECES = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"null", b"1e999", b"\xff", b"\\ud800", b"\n", b"\x00"]


def mutate(raw: bytes, chance: random.Random) -> bytes:
    """Cut, double or replace a piece of the file."""
    start = chance.randrange(len(raw))
    end = min(len(raw), start + chance.choice([1, 1, 5, 40, len(raw)]))
    piece = chance.choice([b"", raw[start:end] * 2, chance.choice(PIECES)])
    return raw[:start] + piece + raw[end:]


def answer(read, path: Path, raw: bytes) -> str:
    """`refused`, `accepted`, or what is wrong with what `read` makes of these bytes."""
    path.write_bytes(raw)
    try:
        entries = read(path)
    except UserError as error:
        return "refused" if (error.code, bool(error.what and error.fix)) == (DATA, True) else repr(error)
    pairs = json.loads(raw, object_pairs_hook=list)
    if any(sorted(key for key, _ in entry) != sorted(KEYS) for entry in pairs):
        return "accepted with a key that is missing or stands twice"
    return "accepted" if [dict(entry) for entry in pairs] == entries else "read as something else"


def test_no_mutation_is_misread(tmp_path):
    raw = json.dumps(json.loads(SAMPLE.read_text(encoding="utf-8"))[:3], indent=1).encode()
    path = tmp_path / "instructions.json"
    answers = [answer(read_entries, path, mutate(raw, random.Random(seed))) for seed in range(1000)]
    assert set(answers) == {"accepted", "refused"}
    assert 50 < answers.count("accepted") < 900


def test_the_oracle_sees_a_reader_that_is_wrong(tmp_path):
    path, entry = tmp_path / "instructions.json", '{"instruction": "a", "input": "", "output": "b", "output": "b"}'
    assert "twice" in answer(lambda path: json.loads(path.read_text()), path, f"[{entry}]".encode())
    once = entry.replace(', "output": "b"', "", 1)
    assert answer(lambda _: [], path, f"[{once}]".encode()) == "read as something else"
