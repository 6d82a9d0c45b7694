"""Score an answer from 0 to 100 with the reference answer only: offline, deterministic, without a language model.

The score measures what the answer adds to the prompt, so only words of the reference that are not in the prompt are
decisive. "The opposite of hot is big." shares five of six words with the reference, but all five are in the prompt. An
answer that repeats the prompt scores 0, and a fluent sentence with the wrong decisive word scores low.

    score = 100                                   if the texts are equal up to case, space and final punctuation
    score = 100 * (0.9 * decisive * order + 0.1 * closeness), at most 99                                 otherwise

decisive   recall times F2 of the decisive words: those that are not in the prompt, without function words. It is 0 if
           exactly one of the two texts has a negation, and closeness squared if the reference has no decisive words
           (for example, if the task is to sort a list)
order      edit similarity of the content words that both texts share; it is low for a shuffled or repeated answer
closeness  edit similarity of all words to the reference, scaled so that copying the prompt gives 0

If most letters of the reference belong to scripts without spaces between words, such as Chinese, Japanese or Thai, the
score is chrF (`chrf.py`), at most 99, and 0 for a copy of the prompt. It does not tell decisive words from others, so
scores of such texts are not comparable with those of English ones. For other languages the formula above holds, but
its function words and negations are English: read chrF in the report of `respond` too.

A correct answer in other words (synonyms) scores low, as with every metric that is based on a reference.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

import regex
from rapidfuzz.distance import Indel

from llm.common.scripts import is_without_spaces
from llm.evaluate import chrf

VERSION = 2  # part of the key of every verdict: increase it with every change that can affect a score

_NUMBER_COMMA = re.compile(r"(?<=\d),(?=\d{3}\b)")
_LIST_MARK = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)
_FINAL = " .!?;:,。、।॥؟۔"
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "`": "'"})
_TOKEN = regex.compile(  # a combining mark belongs to its word
    r"(?<!\w)-?\d+(?:\.\d+)?%?(?!\w)|[\w\p{M}]+(?:['-][\w\p{M}]+)*|[^\w\p{M}\s'\",;:.!?]"
)
_FUNCTION = re.compile(
    r"an?|the|is|are|was|were|be|been|am|its?|this|that|these|those|there|here|of|to|in|on|at|by|for|from|with|as"
    r"|and|or|so|than|then|into|also"
)
_NEGATION = re.compile(r"not|no|never|none|nobody|nothing|cannot|without|neither|nor|\w+n't")


def reference_score(entry: Mapping[str, str]) -> int:
    """Score `model_response` against `output`, given `instruction` and `input`; an integer from 0 to 100."""
    answer, reference = _plain(entry["model_response"]), _plain(entry["output"])
    if not answer:
        return 0
    if answer == reference:
        return 100
    instruction, text = _plain(entry["instruction"]), _plain(entry["input"])
    copies = [f"{instruction}\n{text}", instruction, text]
    if is_without_spaces(reference):
        return 0 if answer in map(str.strip, copies) else min(99, round(chrf.sentence_score(answer, reference)))
    prompt = _words(copies[0])
    a, r = _words(answer), _words(reference)
    closeness = _closeness(a, r, copies=[_words(copy) for copy in copies])
    decisive = _decisive(a, r, given=frozenset(prompt))
    if decisive is None:
        decisive = closeness**2
    return min(99, round(100 * (0.9 * decisive * _order(a, r) + 0.1 * closeness)))


def _plain(text: str) -> str:
    """Normalize case, space and final punctuation. Line breaks are kept, because list marks follow them."""
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold()
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line).rstrip(_FINAL)


def _words(text: str) -> list[str]:
    """Words, numbers and signs such as `=`, without list marks, quotes and punctuation."""
    return _TOKEN.findall(_NUMBER_COMMA.sub("", _LIST_MARK.sub("", text)))


def _closeness(answer: Sequence[str], reference: Sequence[str], copies: Sequence[Sequence[str]]) -> float:
    baseline = max(Indel.normalized_similarity(copy, reference) for copy in copies)
    similarity = Indel.normalized_similarity(answer, reference)
    return max(0.0, (similarity - baseline) / (1 - baseline)) if baseline < 1 else 0.0


def _decisive(answer: Sequence[str], reference: Sequence[str], given: frozenset[str]) -> float | None:
    """Recall times F2 of the words that are not in the prompt; None if the reference has no such words."""
    if _negated(answer) != _negated(reference):
        return 0.0
    own = {word for word in reference if _is_word(word)} - given
    expected = {word for word in own if _is_content(word)} or own
    if not expected:
        return None
    added = {word for word in answer if word in expected or (_is_content(word) and word not in given)}
    hits = len(expected & added)
    recall, f2 = hits / len(expected), 5 * hits / (4 * len(expected) + len(added))
    return recall * f2


def _order(answer: Sequence[str], reference: Sequence[str]) -> float:
    common = {word for word in answer if _is_content(word)} & set(reference)
    return Indel.normalized_similarity([w for w in answer if w in common], [w for w in reference if w in common])


def _is_word(token: str) -> bool:
    return not unicodedata.category(token[0]).startswith("P") or len(token) > 1


def _is_content(token: str) -> bool:
    return _is_word(token) and not _FUNCTION.fullmatch(token)


def _negated(words: Sequence[str]) -> bool:
    return any(_NEGATION.fullmatch(word) for word in words)
