"""Which held-out texts stand in the training part as well: a score on them measures memory too."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Leak = Literal["none", "near", "exact"]
WORDS = 5  # in a run of words
ALIKE = 0.8  # runs in common over runs in either, from which on two texts are near each other


def leaks(held_out: Sequence[str], train: Sequence[str]) -> list[Leak]:
    """How each held-out text leaks into the training texts.

    `exact`: it stands there as it is. `near`: there is one of the same letters, whatever the case, digits, punctuation
    and white space; or one with a Jaccard index of ALIKE or more over the runs of WORDS words.
    """
    there, letters = set(train), {"".join(words(text)) for text in train} - {""}
    runs_there = [runs(text) for text in train]
    holders = defaultdict(list)  # of a run: the training texts that have it
    for number, found in enumerate(runs_there):
        for run in found:
            holders[run].append(number)

    def alike(text: str) -> bool:
        mine = runs(text)
        common = Counter(number for run in mine for number in holders.get(run, ()))
        return any(n / (len(mine) + len(runs_there[number]) - n) >= ALIKE for number, n in common.items())

    def leak(text: str) -> Leak:
        if text in there:
            return "exact"
        return "near" if "".join(words(text)) in letters or alike(text) else "none"

    return [leak(text) for text in held_out]


def counts(parts: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many texts of each part but `train` leak into it: `<part>_exact_in_train` and `<part>_near_in_train`."""
    found = {part: Counter(leaks(texts, parts["train"])) for part, texts in parts.items() if part != "train"}
    return {f"{part}_{kind}_in_train": found[part][kind] for part in found for kind in ("exact", "near")}


def without(items: Sequence[Any], found: Sequence[Leak], *kinds: Leak) -> list[Any]:
    """The items that do not leak in any of these ways."""
    return [item for item, leak in zip(items, found, strict=True) if leak not in kinds]


def words(text: str) -> list[str]:
    """The runs of letters, in one case."""
    return re.findall(r"[^\W\d_]+", text.casefold())


def runs(text: str) -> set[tuple[str, ...]]:
    """Every WORDS words in a row, or all of a shorter text; none of a text without letters."""
    found = words(text)
    return {tuple(found[i : i + WORDS]) for i in range(max(1, len(found) - WORDS + 1))} - {()}
