"""The comparison of two states, ready to be shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llm.compare import changes, curves, headlines, machines, rows, targets
from llm.compare.changes import Change, StageChange
from llm.compare.curves import Curve
from llm.compare.headlines import Line
from llm.compare.pending import pending
from llm.compare.rows import Pair
from llm.compare.snapshot import WORKSPACE, Snapshot

if TYPE_CHECKING:
    from dvc.repo import Repo


@dataclass(frozen=True)
class Comparison:
    """What differs between two states, and by how much."""

    first: Snapshot
    second: Snapshot
    notes: list[str]  # what to know before reading the figures
    parameters: list[Change]
    stages: list[StageChange]
    source_files: list[tuple[str, str]]  # path and change
    data: list[Change]
    headlines: list[Line]
    figures: list[Change]  # all of them, not only the headlines
    flips: list[Pair]  # of Message
    answers: list[Pair]  # of Answer
    curves: list[tuple[str, list[Curve], list[Curve]]]  # report, first, second; only those that differ
    same_rows: bool  # all messages and answers, also those that only one of them has
    has_run: bool  # whether the workspace, if it is one of them, ran with its data and code

    @property
    def equal(self) -> bool:
        """Whether nothing differs at all."""
        differing = (self.parameters, self.stages, self.source_files, self.data, self.figures, self.curves)
        return self.same_rows and self.has_run and not any(differing)

    @property
    def won(self) -> int:
        """Messages that became right."""
        return sum(pair.second.right and not pair.first.right for pair in self.flips)

    @property
    def lost(self) -> int:
        """Messages that became wrong."""
        return sum(pair.first.right and not pair.second.right for pair in self.flips)


def compare(first: Snapshot, second: Snapshot, repo: Repo | None = None) -> Comparison:
    """Read both states and compare them. `repo` tells what this machine computes, and what it has not run yet."""
    here = [side for side in (first, second) if side.commit is None]
    unrun = pending(repo, here[0]) if repo and here else []
    changed = changes.parameters(first, second)
    flips = _flips(first, second)
    lines = headlines.compare(first, second)
    answers = rows.changed_answers(rows.pairs(rows.answers(first), rows.answers(second)))
    return Comparison(
        first,
        second,
        [*_machine(first, repo), *unrun, *_notes(first, second, lines)],
        changed,
        changes.stages(first, second),
        changes.source_files(first, second),
        changes.data(first, second),
        lines,
        _figures(first, second),
        flips,
        answers,
        _curves(first, second),
        rows.messages(first) == rows.messages(second) and rows.answers(first) == rows.answers(second),
        not unrun,
    )


def _machine(first: Snapshot, repo: Repo | None) -> list[str]:
    """A note if the first state was computed by a machine with other bytes than this one."""
    if repo is None or first.commit is None:
        return []
    found = machines.other_outputs(first, Snapshot(WORKSPACE, None), Path(repo.cache.legacy.path, "runs"))
    if not found:
        return []
    text = f"from the same inputs, this machine computes other outputs than {first.title} has, of {', '.join(found)}"
    fix = "undo your change, then `llm repro` and `llm baseline` (earlier results are cached)"
    return [f"{text}; so not all differences are those of your change. To see it alone: {fix}"]


def _notes(first: Snapshot, second: Snapshot, lines: list[Line]) -> list[str]:
    asked = headlines.STAGES
    notes = [
        note for side in (first, second) for note in (*changes.not_run(side, asked), *changes.not_rerun(side, asked))
    ]
    judge = targets.other_judge(first, second)
    if judge and lines[-1].difference:
        text = "the scores are of two different judges, so their difference is not only that of the answers"
        notes.append(f"{', '.join(judge)} changed: {text}")
    others = [line.figure for line in lines if line.verdict is headlines.OTHER_TOKENS]
    if headlines.LOSS in others and targets.other_text(first, second):
        notes.append("other text and other tokens: neither the losses nor val_bits_per_byte are comparable")
    elif headlines.LOSS in others:  # bits per byte are of the same bytes
        notes.append("other tokens: the losses are not comparable, val_bits_per_byte is")
    elif others:
        notes.append("the losses of the instructions are over other tokens, so they are not comparable")
    both = rows.messages(first) and rows.messages(second)
    if both and not rows.same_messages(first, second):
        notes.append("the runs have other test messages: data/spam has another hash, so no message can be paired")
    old, new = rows.answers(first), rows.answers(second)
    shared = len(rows.pairs(old, new))
    if old and new and not shared == len(old) == len(new):
        notes.append(f"the runs have other test instructions: {shared} of {len(old)} and {len(new)} are in both")
    return notes


def _figures(first: Snapshot, second: Snapshot) -> list[Change]:
    found = changes.figures(first, second)
    apart = targets.without_difference((one.where for one in found), first, second)
    return [replace(one, apart=one.where in apart) for one in found]


def _flips(first: Snapshot, second: Snapshot) -> list[Pair]:
    if not rows.same_messages(first, second):
        return []
    found = rows.flips(rows.pairs(rows.messages(first), rows.messages(second)))
    if not found:
        return []
    known = rows.texts(first) or rows.texts(second)
    texts = [rows.with_texts([pair.first, pair.second], known) for pair in found]
    return [Pair(*both) for both in texts]


def _curves(first: Snapshot, second: Snapshot) -> list[tuple[str, list[Curve], list[Curve]]]:
    before, after = curves.read(first), curves.read(second)
    names = dict.fromkeys([*before, *after])
    pairs = ((name, before.get(name, []), after.get(name, [])) for name in names)
    return [(name, old, new) for name, old, new in pairs if old != new]
