"""Verdicts, and a journal that keeps them on the disk so that each answer is judged once."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from llm.common.errors import DATA, RESOURCES, UserError

Status = Literal["scored", "unparsed", "refused", "failed"]
FLAGS = ("empty_answer", "answer_cut", "injection", "over_context", "reply_cut", "length_limit")


@dataclass(frozen=True)
class Verdict:
    """The result for one answer; `index` is its position, from 0."""

    index: int
    status: Status
    score: int | None  # 0 to 100; None unless scored
    reply: str  # the text of the judge; for `failed` the reason
    flags: tuple[str, ...]  # from FLAGS


class Journal:
    """Verdicts as JSON lines. Each is written to the disk before the next request; `failed` ones are not kept."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.verdicts = _read_journal(path) if path is not None and path.exists() else {}

    def get(self, key: str, index: int) -> Verdict | None:
        """Return the verdict with this key, for the answer `index`."""
        found = self.verdicts.get(key)
        return replace(found, index=index) if found else None

    def add(self, key: str, verdict: Verdict) -> None:
        """Add a verdict, unless the request failed."""
        if verdict.status == "failed" or key in self.verdicts:
            return
        self.verdicts[key] = verdict
        if self.path is None:
            return
        fields = asdict(verdict)
        del fields["index"]  # an answer may have another position next time
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="ascii") as file:
                file.write(json.dumps({"key": key, **fields}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            fix = "free some space or correct the path, and run the same command again"
            raise UserError(str(self.path), f"cannot be written: {error.strerror}", fix, RESOURCES) from None


def _read_journal(path: Path) -> dict[str, Verdict]:
    """Read all lines; remove an incomplete last line, left by a crash. Raises UserError for any other invalid line."""
    data = path.read_bytes()
    lines = data.split(b"\n")
    tail = lines.pop()
    verdicts: dict[str, Verdict] = {}
    for number, line in enumerate(lines, start=1):
        try:
            key, verdict = _journal_line(line)
        except (ValueError, KeyError, TypeError):
            if number == len(lines) and not tail:
                tail = line + b"\n"
                break
            fix = "delete the file: all answers are judged again"
            raise UserError(f"{path}:{number}", "not a verdict", fix, DATA) from None
        verdicts[key] = verdict
    if tail:
        os.truncate(path, len(data) - len(tail))
    return verdicts


def _journal_line(line: bytes) -> tuple[str, Verdict]:
    value = json.loads(line)
    status, score, reply, flags = value["status"], value["score"], value["reply"], tuple(value["flags"])
    whole = type(score) is int and 0 <= score <= 100 if status == "scored" else score is None
    if not whole or status not in get_args(Status) or not isinstance(reply, str) or not set(flags) <= set(FLAGS):
        raise ValueError
    return str(value["key"]), Verdict(0, status, score, reply, flags)
