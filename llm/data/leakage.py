"""Find held-out texts that also occur in the training split. A score on them partly measures memorization."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import regex

from llm.common.scripts import WITHOUT_SPACES

Leak = Literal["none", "near", "exact"]
WORDS = 5  # length of a word n-gram
Ngram = tuple[str, ...]
ALIKE = 0.8  # smallest Jaccard index of two near-duplicates
_WORD = regex.compile(rf"(?V1){WITHOUT_SPACES}\p{{M}}*|[[\p{{L}}\p{{M}}]--{WITHOUT_SPACES}]+")


def leaks(held_out: Sequence[str], train: Sequence[str]) -> list[Leak]:
    """Return for each held-out text whether it occurs in the training texts.

    `exact`: the same text occurs. `near`: a text with the same letters occurs, ignoring case, digits, punctuation and
    white space, or one whose word n-grams have a Jaccard index of at least ALIKE.
    """
    texts, train_words = set(train), [words(text) for text in train]
    letters = {"".join(found) for found in train_words} - {""}
    index = _Index([ngrams(found) for found in train_words])

    def leak(text: str) -> Leak:
        if text in texts:
            return "exact"
        found = words(text)
        return "near" if "".join(found) in letters or index.has_like(ngrams(found)) else "none"

    return [leak(text) for text in held_out]


class _Index:
    """Finds sets of n-grams by Jaccard index, with two filters.

    Prefix (Bayardo, Ma and Srikant, 2007): two sets with an index of at least ALIKE share one of the rarest n-grams of
    each: of n, one of the first n - ceil(ALIKE n) + 1. Only these are looked up. Positions (Xiao et al., 2008): where
    sorted sets meet first, the rest of the shorter one limits what they share. So texts that share a long fixed part
    are not compared one by one.
    """

    def __init__(self, sets: Sequence[set[Ngram]]) -> None:
        self.sets = sets
        self.frequency = Counter(ngram for one in sets for ngram in one)
        # n-gram -> its position among the rarest of a set and the size of the set -> numbers of such sets
        self.holders: dict[Ngram, dict[tuple[int, int], list[int]]] = defaultdict(dict)
        for number, one in enumerate(sets):
            for position, ngram in enumerate(self._rarest(one)):
                self.holders[ngram].setdefault((position, len(one)), []).append(number)

    def has_like(self, own: set[Ngram]) -> bool:
        """Whether one of the sets has a Jaccard index of at least ALIKE with `own`."""
        part = ALIKE / (1 + ALIKE)  # of the sum of two sizes that alike sets have in common
        candidates = {
            number
            for position, ngram in enumerate(self._rarest(own))
            for (other, size), numbers in self.holders.get(ngram, {}).items()
            if 1 + min(len(own) - position - 1, size - other - 1) >= part * (len(own) + size) - 1e-9
            for number in numbers
        }
        return any(jaccard(own, self.sets[number]) >= ALIKE for number in candidates)

    def _rarest(self, one: set[Ngram]) -> list[Ngram]:
        ordered = sorted(one, key=lambda ngram: (self.frequency[ngram], ngram))
        return ordered[: len(one) - math.ceil(ALIKE * len(one) - 1e-9) + 1] if one else []


def jaccard(a: set[Ngram], b: set[Ngram]) -> float:
    """Return the size of the intersection over the size of the union."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def counts(splits: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Count the leaks of each split into `train`, as `<split>_exact_in_train` and `<split>_near_in_train`."""
    found = {split: Counter(leaks(texts, splits["train"])) for split, texts in splits.items() if split != "train"}
    return {f"{split}_{kind}_in_train": count[kind] for split, count in found.items() for kind in ("exact", "near")}


def without(items: Sequence[Any], found: Sequence[Leak], *kinds: Leak) -> list[Any]:
    """Return the items whose leak is not one of `kinds`."""
    return [item for item, leak in zip(items, found, strict=True) if leak not in kinds]


def words(text: str) -> list[str]:
    """Return the words: sequences of letters with their combining marks, in compatibility form (NFKC), case-folded.

    In scripts that are written without spaces, each letter is a word.
    """
    return list(_WORD.findall(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())))


def ngrams(found: Sequence[str]) -> set[Ngram]:
    """Return the runs of WORDS words; fewer words are one run. Empty without words."""
    return {tuple(found[i : i + WORDS]) for i in range(max(1, len(found) - WORDS + 1))} - {()}
