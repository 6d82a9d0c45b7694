"""Read pairs of one's own: JSON, JSON Lines or Parquet, in the usual forms.

| question | `chosen` and `rejected` |
| --- | --- |
| `prompt` or `question`, a text | texts, or the last turn of a chat |
| `prompt`, a list of turns | texts, or turns that go on from there |
| `instruction` and perhaps `input`, as in the book's file | texts, or the last turn of a chat |
| none | two chats that differ in their last turn only |

A turn has `role` and `content`. `system` is the text of a turn before the others. Other keys, such as `output` or a
score, are not read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm.common.errors import DATA, UserError, collect_errors, raise_first
from llm.data.decoding import has_lone_surrogate
from llm.data.instruction_shapes import ROLE_OF, ROLES, read_rows, simplified
from llm.data.prompts import question
from llm.preference.pairs import SECTION, SPLITS, Pair, PreferencesConfig, entries_of

Turns = list[dict[str, str]]
KEYS = ("system", "prompt", "question", "instruction", "input", "chosen", "rejected")
FIX = "write prompt, chosen and rejected"


@dataclass
class Published:
    """The pairs of each split, and the numbers of the doubtful ones: answers alike, or asked in an earlier split.

    `other_keys` counts the pairs that have a key that is not read.
    """

    splits: dict[str, list[Pair]] = field(default_factory=dict)
    alike: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    other_keys: Counter[str] = field(default_factory=Counter)


def read_published(path: Path, config: PreferencesConfig) -> Published:
    """Read a file of pairs and cut it into splits, in order. `config.doubtful` says what is done with doubtful pairs.

    Raises UserError with the number of each pair that is not in a known form, or has an empty text, and of doubtful
    ones if they are refused.
    """
    rows, _, _ = read_rows(path, "guess")
    problems: list[UserError] = []
    found = Published({split: [] for split in SPLITS})
    first: dict[str, tuple[int, str]] = {}  # by question: the first pair that asks it, and its split
    train = int(len(rows) * config.train_fraction)
    test = train + int(len(rows) * config.test_fraction)
    for number, row in enumerate(rows, start=1):
        split = SPLITS[(number > train) + (number > test)]
        where = f"{path}: pair {number}"
        with collect_errors(problems):
            pair = _pair(row, where)
            number_before, split_before = first.setdefault(question(entries_of(pair)[0]), (number, split))
            found.other_keys.update(key for key in row if key not in KEYS)
            doubts = []
            if pair["chosen"] == pair["rejected"]:
                found.alike.append(number)
                doubts.append(f"chosen and rejected are the same: {pair['chosen']!r:.60}")
            if split_before != split:
                found.repeated.append(number)
                doubts.append(f"its question is in the {split} split, and as pair {number_before} in {split_before}")
            if doubts and config.doubtful == "refuse":
                raise UserError(where, ", and ".join(doubts), "correct it, or set preferences.doubtful to skip", DATA)
            if not doubts or config.doubtful == "keep":
                found.splits[split].append(pair)
    raise_first(problems, str(path))
    for split, part in found.splits.items():
        if not part:
            what = f"the {split} split is empty, with {len(rows):,} pairs in all"
            raise UserError(str(path), what, f"add pairs, or change the fractions of {SECTION}", DATA)
    return found


def _pair(row: Any, where: str) -> Pair:
    if not isinstance(row, Mapping):
        raise UserError(where, f"is {row!r:.40}, not an object", "write an object", DATA)
    missing = [key for key in ("chosen", "rejected") if key not in row]
    if missing:
        raise UserError(where, f"missing {missing[0]!r}", FIX, DATA)
    given, chosen, rejected = _question(row, where), row["chosen"], row["rejected"]
    asked = given
    if isinstance(chosen, list) and isinstance(rejected, list):
        asked, chosen, rejected = _from_chats(given, chosen, rejected, where)
    chosen, rejected = (_text(value, key, where) for key, value in (("chosen", chosen), ("rejected", rejected)))
    if not asked:
        raise UserError(where, "has no question", f"{FIX}; or instruction, chosen and rejected", DATA)
    return {**_entry(row, asked, asked is given, where), "chosen": chosen, "rejected": rejected}


def _entry(row: Mapping[str, Any], asked: Turns, as_given: bool, where: str) -> dict[str, Any]:
    """The question in normal form: instruction and input, or the turns of a chat.

    Raises UserError if a chat that brings its own turns lacks the text of `input`.
    """
    more = row.get("input") or ""
    if as_given and len(asked) == 1 and "instruction" in row and asked[0]["content"] == row["instruction"]:
        return {"instruction": row["instruction"], "input": more}
    if more and as_given:
        asked = [*asked[:-1], {"role": "user", "content": f"{asked[-1]['content']}\n\n{more}"}]
    elif more and more not in asked[-1]["content"]:
        raise UserError(where, f"input is not in the question of the chats: {more!r:.40}", "leave out input", DATA)
    found = simplified([*asked, {"role": "assistant", "content": ""}])
    if "messages" in found:
        return {"messages": asked}
    return {"instruction": found["instruction"], "input": ""}


def _question(row: Mapping[str, Any], where: str) -> Turns:
    """The turns before the answer; none if the pair holds them in `chosen`."""
    if row.get("input"):
        _text(row["input"], "input", where)
    key = next((key for key in ("prompt", "question", "instruction") if key in row), None)
    if key is None:
        return []
    if key == "prompt" and isinstance(row["prompt"], list):
        turns = _turns(row["prompt"], "prompt", where)
    else:
        turns = [{"role": "user", "content": _text(row[key], key, where)}]
    if row.get("system") and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": _text(row["system"], "system", where)})
    return turns


def _from_chats(asked: Turns, chosen: list[Any], rejected: list[Any], where: str) -> tuple[Turns, str, str]:
    """Question and both answers of two chats, with or without the turns of the question."""
    chats = [_turns(value, key, where) for key, value in (("chosen", chosen), ("rejected", rejected))]
    (*before, answer), (*other, answer_too) = chats
    if before != other:
        what = "the turns before the answer differ between chosen and rejected"
        raise UserError(where, what, "let them differ in their last turn only", DATA)
    if answer["role"] != "assistant" or answer_too["role"] != "assistant":
        raise UserError(where, "a last turn is not the assistant's", "end both chats with an answer", DATA)
    if not before or asked[-len(before) :] == before:
        whole = asked
    elif before[: len(asked)] == asked or before[-len(asked) :] == asked:
        whole = before
    elif before[0]["role"] == "assistant":
        whole = [*asked, *before]
    else:
        raise UserError(where, "prompt is not what the chats begin with", "leave out prompt, or those turns", DATA)
    return whole, answer["content"], answer_too["content"]


def _turns(value: list[Any], key: str, where: str) -> Turns:
    if not value:
        raise UserError(where, f"{key} is an empty list", "write its turns", DATA)
    turns = []
    for number, turn in enumerate(value, start=1):
        place = f"{where}, {key}, turn {number}"
        if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
            raise UserError(place, f"is {turn!r:.40}, not an object of role and content", "write both", DATA)
        role = str(turn["role"]).casefold()
        if role not in ROLE_OF:
            raise UserError(place, f"role is {turn['role']!r:.40}", f"name one of {', '.join(ROLES)}", DATA)
        turns.append({"role": ROLE_OF[role], "content": _text(turn["content"], "content", place)})
    return turns


def _text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(where, f"{key} is {value!r:.40}, not a text", "write a string in quotes", DATA)
    if not value.strip():
        raise UserError(where, f"{key} is empty", "write it, or remove the pair", DATA)
    if has_lone_surrogate(value):
        raise UserError(where, f"{key} contains a lone surrogate", "write the character itself", DATA)
    return value
