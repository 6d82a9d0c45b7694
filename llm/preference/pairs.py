"""Preference pairs: two answers to one question, of which the first is preferred.

A pair in normal form is an object with `chosen` and `rejected` (texts) beside the question: `instruction` and `input`,
or for a chat of several turns `messages`. `answer`, where it is known, is what both say, without the wording.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm.common.errors import DATA, UserError, raise_first
from llm.common.files import read_json
from llm.common.params import Problem, at_least_zero, fraction
from llm.common.seeds import derive
from llm.data.prompts import all_questions, question, single
from llm.preference.wordings import BLUNT, POLITE, divided

PREFERENCES = Path("data/preferences")
Pair = dict[str, Any]
SPLITS = ("train", "test", "validation")  # in the order of a file, as for instructions
UNSEEN = "unseen"  # the test questions in wordings that no other split has
SECTION = "preferences"


@dataclass(frozen=True)
class PreferencesConfig:
    """Section `preferences` of params.yaml."""

    source: str  # data/instructions: pairs are made of them; else a file of pairs
    prefer: Literal["polite", "blunt"]  # of the made pairs
    held_out_wordings: int  # of each style, kept for the split `unseen`
    doubtful: Literal["refuse", "skip", "keep"]  # pairs of a file with the same answer twice, or asked in two splits
    train_fraction: float  # of a file of pairs
    test_fraction: float

    def problems(self) -> Iterator[Problem]:
        yield from at_least_zero(self, "held_out_wordings")
        yield from fraction(self, "train_fraction", "test_fraction", zero=False)
        if (total := self.train_fraction + self.test_fraction) >= 1:
            yield "test_fraction", f"its sum with train_fraction is {total:g}", "lower one for the validation split"
        for wordings in (POLITE, BLUNT):
            if self.held_out_wordings >= len(wordings) // 2:
                what = f"{self.held_out_wordings} of {len(wordings)} wordings"
                yield "held_out_wordings", what, f"give less than {len(wordings) // 2}"


def make_pairs(
    entries: Mapping[str, Sequence[Mapping[str, Any]]], config: PreferencesConfig, seed: int
) -> dict[str, list[Pair]]:
    """Make a pair of each entry of the splits: its answer in a preferred and in a rejected wording.

    Wordings are drawn from (seed, split, number). The split `unseen` has the entries of `test` in held-out wordings.
    In a chat, it is that of the last answer. Held-out entries whose question is in the training split are left out.
    Raises UserError if nothing is left of a split.
    """
    styles = (POLITE, BLUNT) if config.prefer == "polite" else (BLUNT, POLITE)
    seen, unseen = zip(*(divided(style, config.held_out_wordings, seed) for style in styles), strict=True)
    known = {text for entry in entries["train"] for text in all_questions(entry)}
    pairs: dict[str, list[Pair]] = {}
    for split, part in {**entries, UNSEEN: entries["test"]}.items():
        fresh = [entry for entry in part if split == "train" or question(entry) not in known]
        wordings = unseen if split == UNSEEN else seen
        if all(wordings):
            pairs[split] = [_worded(entry, wordings, derive(seed, split, number)) for number, entry in enumerate(fresh)]
    for split, part in pairs.items():
        if not part:
            what = f"no question of the {split} split is new"
            raise UserError(config.source, what, "name a file of pairs in preferences.source", DATA)
    return pairs


def _worded(entry: Mapping[str, Any], wordings: Sequence[Sequence[str]], seed: int) -> Pair:
    chosen, rejected = (part[derive(seed, number) % len(part)] for number, part in enumerate(wordings))
    answer = single(entry)["output"].strip()
    asked = {"messages": entry["messages"][:-1]} if "messages" in entry else asks(entry)
    texts = {"chosen": chosen.replace("{}", answer), "rejected": rejected.replace("{}", answer)}
    return {**asked, **texts, "answer": answer}


def entries_of(pair: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pair as two entries in normal form of instructions, the chosen one first."""
    if "messages" in pair:
        last = [{"role": "assistant", "content": pair[key]} for key in ("chosen", "rejected")]
        return {"messages": [*pair["messages"], last[0]]}, {"messages": [*pair["messages"], last[1]]}
    return asks(pair) | {"output": pair["chosen"]}, asks(pair) | {"output": pair["rejected"]}


def asks(pair: Mapping[str, Any]) -> dict[str, Any]:
    """Return the question of a pair as an entry without an answer."""
    return {key: pair[key] for key in ("instruction", "input", "messages") if key in pair}


def read_pairs(path: Path) -> list[Pair]:
    """Read a split that the stage `preferences` wrote. Raises UserError for anything that it would not write."""
    pairs = read_json(path)
    fix = "run `dvc repro preferences`"
    if not isinstance(pairs, list) or not pairs:
        raise UserError(str(path), "holds no list of pairs", fix, DATA)
    broken = [number for number, pair in enumerate(pairs, start=1) if not _is_pair(pair)]
    raise_first([UserError(f"{path}: pair {number}", "is no pair", fix, DATA) for number in broken], str(path))
    return pairs


def _is_pair(value: Any) -> bool:
    if not isinstance(value, dict) or not {"chosen", "rejected"} <= value.keys():
        return False
    asked = ["messages"] if "messages" in value else ["instruction", "input"]
    texts = [value.get(key) for key in value if key != "messages"]
    return all(key in value for key in asked) and all(isinstance(text, str) for text in texts)
