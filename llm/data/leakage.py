"""Find held-out texts that also occur in the training split. A score on them partly measures memorization."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Leak = Literal["none", "near", "exact"]
WORDS = 5  # length of a word n-gram
ALIKE = 0.8  # smallest Jaccard index of two near-duplicates


def leaks(held_out: Sequence[str], train: Sequence[str]) -> list[Leak]:
    """Return for each held-out text whether it occurs in the training texts.

    `exact`: the same text occurs. `near`: a text with the same letters occurs, ignoring case, digits, punctuation and
    white space, or one whose word n-grams have a Jaccard index of at least ALIKE.
    """
    texts, letters = set(train), {"".join(words(text)) for text in train} - {""}
    train_ngrams = [ngrams(text) for text in train]
    holders = defaultdict(list)  # n-gram -> numbers of the training texts with it
    for number, found in enumerate(train_ngrams):
        for ngram in found:
            holders[ngram].append(number)

    def is_near(text: str) -> bool:
        own = ngrams(text)
        common = Counter(number for ngram in own for number in holders.get(ngram, ()))
        return any(n / (len(own) + len(train_ngrams[number]) - n) >= ALIKE for number, n in common.items())

    def leak(text: str) -> Leak:
        if text in texts:
            return "exact"
        return "near" if "".join(words(text)) in letters or is_near(text) else "none"

    return [leak(text) for text in held_out]


def counts(splits: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Count the leaks of each split into `train`, as `<split>_exact_in_train` and `<split>_near_in_train`."""
    found = {split: Counter(leaks(texts, splits["train"])) for split, texts in splits.items() if split != "train"}
    return {f"{split}_{kind}_in_train": count[kind] for split, count in found.items() for kind in ("exact", "near")}


def without(items: Sequence[Any], found: Sequence[Leak], *kinds: Leak) -> list[Any]:
    """Return the items whose leak is not one of `kinds`."""
    return [item for item, leak in zip(items, found, strict=True) if leak not in kinds]


def words(text: str) -> list[str]:
    """Return the sequences of letters, case-folded."""
    return re.findall(r"[^\W\d_]+", text.casefold())


def ngrams(text: str) -> set[tuple[str, ...]]:
    """Return the word n-grams of length WORDS; a shorter text is one n-gram. Empty for a text without letters."""
    found = words(text)
    return {tuple(found[i : i + WORDS]) for i in range(max(1, len(found) - WORDS + 1))} - {()}
