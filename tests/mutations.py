"""Broken copies of files, made at random, and what is wrong with a reader's answer to one."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from llm.common.errors import DATA, USAGE, UserError

PIECES = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"null", b"1e999", b"\xff", b"\\ud800", b"\n", b"\x00"]
VALUES = [0, -1, 1, 10, 2**31, 2**53 + 1, 10**30, 0.0, -0.5, 1.5, 5e-324, 1e308, 5e-05, True, False, None]
VALUES += [
    "",
    "5e-05",
    "010",
    "yes",
    "null",
    "\u2028",
    "é\u0000",
    "x" * 10_000,
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {"": None},
]


def sections(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from sections(item)


def mutate_document(document: dict[str, Any], chance: random.Random) -> None:
    """Delete, double, rename or retype one key, or take its number to an extreme."""
    section = chance.choice([one for one in sections(document) if one])
    key = chance.choice(sorted(section))
    kind = chance.choice(["delete", "double", "rename", "retype", "value", "value", "move"])
    if kind == "delete":
        del section[key]
    elif kind == "double":
        section[key + "\0"] = section[key]  # `text_of` writes it without the mark
    elif kind == "rename":
        section[chance.choice([key + "s", key[:-1], key.upper(), " " + key, "é"])] = section.pop(key)
    elif kind == "retype":
        section[key] = chance.choice([str, lambda v: [v], lambda v: {"value": v}, bool])(section[key])
    elif kind == "value":
        section[key] = copy.deepcopy(chance.choice(VALUES))
    else:
        chance.choice(list(sections(document)))[key] = copy.deepcopy(section[key])


def text_of(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1).replace('\\u0000":', '":')


def mutate_bytes(raw: bytes, chance: random.Random, pieces: Sequence[bytes] = PIECES) -> bytes:
    """Cut, double or replace a piece of the file."""
    start = chance.randrange(len(raw))
    end = min(len(raw), start + chance.choice([1, 1, 5, 40, len(raw)]))
    piece = chance.choice([b"", raw[start:end] * 2, chance.choice(pieces)])
    return raw[:start] + piece + raw[end:]


def mutate_json(raw: bytes, chance: random.Random) -> bytes:
    """Change the keys and values of a JSON object, or, one time in four, its bytes."""
    if chance.random() < 0.25:
        return mutate_bytes(raw, chance)
    document = json.loads(raw)
    for _ in range(chance.choice([1, 1, 2])):
        mutate_document(document, chance)
    return text_of(document).encode()


def answer(read: Callable[[Path], Any], path: Path, raw: bytes, meaning: Callable[[bytes], Any]) -> str:
    """`refused` (naming a file of its folder), `accepted`, or what is wrong with what `read` makes of these bytes.

    `meaning` parses them independently, and raises ValueError, KeyError or TypeError where they mean nothing.
    """
    path.write_bytes(raw)
    try:
        got = read(path)
    except UserError as error:
        problems = getattr(error, "problems", [error])
        good = all(
            one.code in (DATA, USAGE) and one.what and one.fix and str(path.parent) in str(one) for one in problems
        )
        return "refused" if good else f"refused without reasons: {error!r}"
    except Exception as error:
        return f"traceback: {error!r}"
    try:
        meant = meaning(raw)
    except (ValueError, KeyError, TypeError) as error:
        return f"accepted, but {error!r}"
    return "accepted" if got == meant else f"read as {got!r:.300}, means {meant!r:.300}"


def answers(
    read: Callable[[Path], Any],
    path: Path,
    raw: bytes,
    meaning: Callable[[bytes], Any],
    mutate: Callable[[bytes, random.Random], bytes] = mutate_bytes,
) -> list[str]:
    """The answers to a thousand broken copies of `raw`, the file as it was in place again."""
    assert answer(read, path, raw, meaning) == "accepted"
    given = [answer(read, path, mutate(raw, random.Random(seed)), meaning) for seed in range(1000)]
    path.write_bytes(raw)
    return given


def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """The `object_pairs_hook` under which no key may stand twice."""
    if len(dict(items)) < len(items):
        raise ValueError("duplicate key")
    return dict(items)
