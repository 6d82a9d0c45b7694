"""Read instructions as they are published: JSON, JSON Lines or Parquet; pairs of texts, or chats.

| shape | keys of an entry |
| --- | --- |
| alpaca | `instruction`, `input` (optional), `output` |
| dolly | `instruction`, `context` (optional), `response` |
| messages | `messages`, a list of turns with `role` and `content` |
| sharegpt | `conversations`, a list of turns with `from` and `value` |
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

from llm.common.errors import DATA, UserError, collect_errors, listed, raise_first
from llm.common.files import parse_json, parse_json_lines, read_bytes, read_text
from llm.common.params import Problem
from llm.data.decoding import has_lone_surrogate, refuse_other_kinds

Format = Literal["json", "jsonl", "parquet"]
ShapeName = Literal["alpaca", "dolly", "messages", "sharegpt"]
Entry = dict[str, Any]
ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "model"),
}
ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
KEY = "tokenize.instructions"
MOST_KEYS = 30  # in a report
NAMED = 8  # keys in a message


@dataclass(frozen=True)
class Keys:
    """The names of the keys of an entry: of a pair (`instruction`, `output`), or of a chat (`messages` and so on)."""

    instruction: str | None = None
    input: str | None = None  # optional, also in an entry
    output: str | None = None
    messages: str | None = None  # the list of turns
    role: str | None = None  # of a turn: system, user or assistant, or another name in ROLES
    content: str | None = None  # of a turn

    @property
    def given(self) -> dict[str, str]:
        return {key: name for key, name in asdict(self).items() if name is not None}

    def problems(self) -> Iterator[Problem]:
        needed = self.given.keys() - {"input"}
        if needed not in ({"instruction", "output"}, {"messages", "role", "content"}) or (self.messages and self.input):
            what = f"names {', '.join(self.given) or 'nothing'}, which is neither a pair nor a chat"
            yield "instruction", what, "name instruction and output (and input), or messages, role and content"

    def fits(self, row: Mapping[Any, Any]) -> bool:
        if self.messages is None:
            return self.instruction in row and self.output in row
        turns = row.get(self.messages)
        first = turns[0] if isinstance(turns, list) and turns else None
        return isinstance(first, Mapping) and self.role in first and self.content in first

    def __str__(self) -> str:
        return ", ".join(key if key == name else f"{key}: {name}" for key, name in self.given.items())


SHAPES: dict[str, Keys] = {
    "alpaca": Keys("instruction", "input", "output"),
    "dolly": Keys("instruction", "context", "response"),
    "messages": Keys(messages="messages", role="role", content="content"),
    "sharegpt": Keys(messages="conversations", role="from", content="value"),
}
# Also mixtures of these, such as `instruction`, `input`, `response`.
_PAIRS = [Keys("instruction", *names) for names in product(("input", "context"), ("output", "response"))]
_TURNS = (("role", "content"), ("from", "value"))
_LISTS = ("messages", "conversations")
_CHATS = [Keys(messages=name, role=role, content=content) for name, (role, content) in product(_LISTS, _TURNS)]


@dataclass
class Published:
    """The entries of a file in normal form with their numbers from 1, and what was seen on the way.

    Normal form is {"instruction", "input", "output"}, or for a chat of several turns {"messages": [{"role",
    "content"}, ...]}, whose last turn is the assistant's.
    """

    form: Format
    shape: str = ""
    rows: int = 0
    entries: list[tuple[int, Entry]] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)  # entries without a question or an answer
    unanswered: int = 0  # turns after the last answer of a chat, left out
    extra_keys: Counter[str] = field(default_factory=Counter)
    made_text: Counter[str] = field(default_factory=Counter)  # numbers and lists made text, by key


def read_published(
    path: Path, form: Format | Literal["guess"], shape: ShapeName | Literal["guess"] | Keys, as_text: Sequence[str]
) -> Published:
    """Read a file. `as_text` names the keys whose numbers and lists are made text. A chat may be a bare list of turns.

    Raises UserError with the number of each invalid entry.
    """
    rows, form, beside = read_rows(path, form)
    if not rows:
        raise UserError(str(path), "has no entries", "add entries", DATA)
    known = [shape] if isinstance(shape, Keys) else _CHATS if shape == "guess" else [SHAPES[shape]]
    rows = [next((chat for keys in known if keys.fits(chat := {keys.messages: row})), row) for row in rows]
    keys = known[0] if shape != "guess" else _guess(rows, path)
    texts = [name for name in (keys.instruction, keys.input, keys.output, keys.role, keys.content) if name]
    if unknown := [name for name in as_text if name not in texts]:
        what = f"{unknown[0]!r} is not a key of a text"
        raise UserError(f"{KEY}.as_text", what, f"name one of {', '.join(texts)}", DATA)
    name = next((name for name, known in SHAPES.items() if known == keys), str(keys))
    found = Published(form, name, len(rows), extra_keys=Counter(f"(file).{key}" for key in beside))
    reader = _Reader(keys, as_text, found)
    problems: list[UserError] = []
    for number, row in enumerate(rows, start=1):
        where = f"{path}: entry {number}"
        with collect_errors(problems):
            if entry := reader.entry(row, where):
                found.entries.append((number, entry))
            else:
                found.empty.append(number)
    raise_first(problems, str(path))
    return found


# Files ----------------------------------------------------------------------------------------------------------------


def read_rows(path: Path, form: Format | Literal["guess"]) -> tuple[list[Any], Format, list[str]]:
    """Return the entries of a file, its format, and the keys beside the list of entries."""
    data = read_bytes(path)
    if form == "parquet" or (form == "guess" and data.startswith(b"PAR1")):
        return _parquet(path), "parquet", []
    refuse_other_kinds(data, path)
    if form == "guess" and path.suffix.lower() in (".csv", ".tsv"):
        what = f"is a table by the end of its name, {path.suffix}; instructions are JSON, JSON Lines or Parquet"
        fix = 'write JSON Lines: pandas.read_csv(...).to_json("instructions.jsonl", orient="records", lines=True)'
        raise UserError(str(path), what, fix, DATA)
    text = read_text(path)
    if form == "guess":
        is_array = text.lstrip().startswith("[")  # whatever the name ends with
        lines = path.suffix.lower() in (".jsonl", ".ndjson") and not is_array
        form = "jsonl" if lines or _has_entry_lines(text) else "json"
    if form == "json":
        rows, beside = _unwrap(parse_json(text, path), path)
        return rows, form, beside
    return [row for _, row in parse_json_lines(text, path)], form, []


def _has_entry_lines(text: str) -> bool:
    """Whether the first line is an object or a list, and more lines follow."""
    first, _, rest = text.strip().partition("\n")
    try:
        return first.startswith(("{", "[")) and bool(rest) and isinstance(json.loads(first), dict | list)
    except (ValueError, RecursionError):
        return False


def _unwrap(value: Any, path: Path) -> tuple[list[Any], list[str]]:
    """Return the list of entries, the value itself or the one list of objects in an object, and the other keys."""
    if isinstance(value, list):
        return value, []
    fix = "write [{...}, ...], or one entry a line"
    if not isinstance(value, dict):
        raise UserError(str(path), f"contains {type(value).__name__}, not a list of entries", fix, DATA)
    lists = [key for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
    if len(lists) != 1:
        names = listed(lists or list(value), NAMED) or "no keys"
        what = f"is one object with {len(lists)} lists of entries ({names})"
        raise UserError(str(path), what, fix if not lists else "keep one of them", DATA)
    return value[lists[0]], [key for key in value if key != lists[0]]


def _parquet(path: Path) -> list[Any]:
    from pyarrow import ArrowException, parquet

    try:
        return list(parquet.read_table(path).to_pylist())
    except (ArrowException, OSError, ValueError, OverflowError) as error:
        what = f"not readable Parquet: {' '.join(str(error).split())}"
        raise UserError(str(path), what, "correct the file", DATA) from None


def _guess(rows: Sequence[Any], path: Path) -> Keys:
    """Return the keys that most entries have."""
    objects = [row for row in rows if isinstance(row, Mapping)]

    def fitting(keys: Keys) -> tuple[int, int]:
        return sum(map(keys.fits, objects)), sum(keys.input in row for row in objects)

    best = max([*SHAPES.values(), *_PAIRS, *_CHATS], key=fitting)
    if not fitting(best)[0]:
        _refuse_chats_as_text(objects, path)
        seen = Counter(key for row in objects for key in row)
        named = ", ".join(key for key, _ in seen.most_common(NAMED)) or "none"
        what = f"no entry has the keys of a known shape ({'; '.join(map(str, SHAPES.values()))}), but: {named}"
        fix = f"name yours, as in {KEY}.shape: {{instruction: question, output: answer}}"
        raise UserError(str(path), what, fix, DATA)
    return best


def _refuse_chats_as_text(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    for key in _LISTS:  # chats as tables hold them
        if found := [row[key] for row in rows if isinstance(row.get(key), str)]:
            what = f"{key} is {found[0]!r:.40}, a string, not a list of turns"
            raise UserError(str(path), what, "parse it, as with json.loads, and write the list", DATA)


# Entries --------------------------------------------------------------------------------------------------------------


class _Reader:
    """Turns the entries of one file into normal form."""

    def __init__(self, keys: Keys, as_text: Sequence[str], found: Published) -> None:
        self.keys, self.as_text, self.found = keys, as_text, found

    def entry(self, row: Any, where: str) -> Entry | None:
        """Return the entry in normal form; None if it has no question or no answer. Raises UserError."""
        if not isinstance(row, Mapping):
            raise UserError(where, f"is {row!r:.40}, not an object", "write an object", DATA)
        entry = self._pair(row, where) if self.keys.messages is None else self._chat(row, self.keys.messages, where)
        known = {self.keys.instruction, self.keys.input, self.keys.output, self.keys.messages}
        self.found.extra_keys.update(key for key in row if key not in known)
        return entry

    def _pair(self, row: Mapping[str, Any], where: str) -> Entry | None:
        instruction, output = (self._text(row, key or "", where) for key in (self.keys.instruction, self.keys.output))
        given = self._text(row, self.keys.input, where) if self.keys.input in row else ""  # type: ignore[arg-type]
        if not instruction.strip() or not output.strip():
            return None
        return {"instruction": instruction, "input": given, "output": output}

    def _chat(self, row: Mapping[str, Any], key: str, where: str) -> Entry | None:
        turns = row.get(key)
        if not isinstance(turns, list):
            what = f"missing {key!r}" if key not in row else f"{key} is {turns!r:.40}, not a list of turns"
            raise UserError(where, what, "write a list of turns", DATA)
        messages = [self._turn(turn, f"{where}, turn {number}") for number, turn in enumerate(turns, start=1)]
        messages = [message for message in messages if message["role"] != "system" or message["content"].strip()]
        answered = max((n for n, message in enumerate(messages, start=1) if message["role"] == "assistant"), default=0)
        asked = any(message["role"] == "user" for message in messages[:answered])
        if not asked or not all(message["content"].strip() for message in messages[:answered]):
            return None
        self.found.unanswered += len(messages) - answered
        return simplified(messages[:answered])

    def _turn(self, turn: Any, where: str) -> dict[str, str]:
        role_key, content_key = self.keys.role or "", self.keys.content or ""
        if not isinstance(turn, Mapping):
            raise UserError(where, f"is {turn!r:.40}, not an object", f"write {role_key} and {content_key}", DATA)
        role = self._text(turn, role_key, where)
        if role.casefold() not in ROLE_OF:
            known = ", ".join(ROLE_OF)
            raise UserError(where, f"{role_key} is {role!r:.40}, not one of {known}", "name one of them", DATA)
        extra = (f"{self.keys.messages}.{key}" for key in turn if key not in (role_key, content_key))
        self.found.extra_keys.update(extra)
        return {"role": ROLE_OF[role.casefold()], "content": self._text(turn, content_key, where)}

    def _text(self, row: Mapping[str, Any], key: str, where: str) -> str:
        """Return the text of a key; null is empty."""
        if key not in row:
            raise UserError(where, f"missing {key!r}", f"add {key!r}, or change {KEY}.shape", DATA)
        value = row[key]
        text = "" if value is None else value
        if key in self.as_text and isinstance(value, int | float | list):
            text = _as_text(value)
            self.found.made_text[key] += 1
        if not isinstance(text, str):
            fix = f"write a string in quotes, or name {key} in {KEY}.as_text if it is a number or a list of texts"
            raise UserError(where, f"{key} is {value!r:.40}, not a string", fix, DATA)
        if has_lone_surrogate(text):
            raise UserError(where, f"{key} contains a lone surrogate", "write the character itself", DATA)
        return text


def summary(counts: Counter[str]) -> dict[str, int]:
    """Return the counts of the MOST_KEYS most frequent keys in order of their names, and the sum of the others."""
    listed = counts.most_common(MOST_KEYS)
    found = {key.encode("utf-8", "replace").decode(): count for key, count in sorted(listed)}
    others = counts.total() - sum(count for _, count in listed)
    return found | ({"(other keys)": others} if others else {})


def simplified(messages: Sequence[Mapping[str, str]]) -> Entry:
    """Return the normal form of a chat: of one question and one answer, an instruction and its output."""
    if [message["role"] for message in messages] == ["user", "assistant"]:
        return {"instruction": messages[0]["content"], "input": "", "output": messages[1]["content"]}
    return {"messages": list(messages)}


def _text_part(item: Any) -> Any:
    """The text of a part of a message, as OpenAI's API has them: {"type": "text", "text": ...}."""
    return item.get("text") if isinstance(item, Mapping) and item.get("type") == "text" else item


def _as_text(value: Any) -> Any:
    """Return a number as JSON writes it, a list of numbers, texts or parts of a message as lines; others unchanged."""
    if isinstance(value, list):
        lines = [_as_text(item) if isinstance(item, int | float) else _text_part(item) for item in value]
        return "\n".join(lines) if all(isinstance(line, str) for line in lines) else value
    return json.dumps(value)
