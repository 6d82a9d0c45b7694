"""A thousand broken copies of params.yaml: each is refused with a message, or read as another parser reads it.

The copies are JSON, which is valid YAML, so Python's json module is the reference.
"""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm.common.errors import USAGE, UserError
from llm.common.params import flat, load, read_all
from stages.schema import AllParams
from tests.mutations import mutate_document, text_of

ROOT = Path(__file__).parents[3]


def meaning(text: str) -> tuple[dict[str, Any], bool]:
    """Return the value that the json module reads, and whether a section has a duplicate key."""
    duplicates = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        duplicates.extend([key for key, _ in items if [k for k, _ in items].count(key) > 1])
        return dict(items)

    return json.loads(text, object_pairs_hook=pairs), bool(duplicates)


def same(read: Any, meant: Any) -> bool:
    """Whether value and type are equal; a whole number may be read as a float."""
    if isinstance(read, tuple | list):
        return isinstance(meant, list) and len(read) == len(meant) and all(map(same, read, meant))
    return read == meant and (type(read) is type(meant) or (type(read), type(meant)) == (float, int))


def wrong(read: Callable[[Path], Any], path: Path, text: str) -> str | None:
    """Return what is wrong with the result of the reader for this text, or None."""
    path.write_text(text, encoding="utf-8")
    meant, duplicates = meaning(text)
    try:
        config = read(path)
    except UserError as error:
        return None if error.code == USAGE and error.what and error.fix else f"refused without a message: {error!r}"
    except Exception as error:
        return f"traceback: {error!r}"
    got, wanted = flat(config), flat(meant)
    if duplicates:
        return "accepted with a duplicate key"
    for key in sorted(wanted):
        if wanted[key] != {} and not (key in got and same(got[key], wanted[key])):
            return f"{key} read as {got.get(key, 'nothing')!r}, means {wanted[key]!r}"
    return None


@pytest.mark.parametrize(
    "number", [20, pytest.param(100, marks=pytest.mark.slow), pytest.param(1000, marks=pytest.mark.long)]
)
def test_no_mutation_is_misread(number, tmp_path):
    good = load(ROOT / "params.yaml")
    refused = []

    def read(path: Path) -> AllParams:
        try:
            return read_all(AllParams, path)
        except UserError as error:
            refused.append(error)
            raise

    for seed in range(number):
        chance, document = random.Random(seed), copy.deepcopy(good)
        for _ in range(chance.choice([1, 1, 2, 4])):
            mutate_document(document, chance)
        assert wrong(read, tmp_path / "params.yaml", text_of(document)) is None, seed
    assert number / 2 < len(refused) < number  # most copies are invalid


@pytest.mark.parametrize(
    ("reader", "seen"),
    [
        (lambda path: json.loads(path.read_text()), "duplicate"),  # keeps the last of two equal keys
        (lambda path: {**load(path), "seed": 1}, "seed read as 1"),
        (lambda path: load(path)["no such section"], "traceback"),
    ],
)
def test_the_check_detects_a_wrong_reader(reader, seen, tmp_path):
    text = '{"seed": 2, "seed": 2}' if seen == "duplicate" else '{"seed": 2}'
    assert seen in str(wrong(reader, tmp_path / "params.yaml", text))
