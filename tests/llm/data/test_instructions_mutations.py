"""A thousand broken copies of an instruction file: each is refused, or read as by the json module."""

import json
from pathlib import Path

from llm.data.instructions import KEYS, read_entries
from tests.mutations import answer, answers

SAMPLE = Path(__file__).parents[3] / "data/sample/instructions.json"


def meaning(raw: bytes) -> list[dict[str, str]]:
    """Return the entries as read by the json module."""
    pairs = json.loads(raw, object_pairs_hook=list)
    if any(sorted(key for key, _ in entry) != sorted(KEYS) for entry in pairs):
        raise ValueError("missing or duplicate key")
    return [dict(entry) for entry in pairs]


def test_no_mutation_is_misread(tmp_path):
    raw = json.dumps(json.loads(SAMPLE.read_text(encoding="utf-8"))[:3], indent=1).encode()
    given = answers(read_entries, tmp_path / "instructions.json", raw, meaning)
    assert set(given) == {"accepted", "refused"}
    assert 50 < given.count("accepted") < 900


def test_the_check_detects_a_wrong_reader(tmp_path):
    path, entry = tmp_path / "instructions.json", '{"instruction": "a", "input": "", "output": "b", "output": "b"}'
    assert "duplicate" in answer(lambda path: json.loads(path.read_text()), path, f"[{entry}]".encode(), meaning)
    once = entry.replace(', "output": "b"', "", 1)
    assert "read as []" in answer(lambda _: [], path, f"[{once}]".encode(), meaning)
