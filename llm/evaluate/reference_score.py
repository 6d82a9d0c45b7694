"""A score from 0 to 100 for an answer, from the reference answer alone: offline, deterministic, and no language model.

It asks what the answer adds to the prompt. The words that decide are those of the reference that the prompt does not
hold: "The opposite of hot is big." shares five words of six with the reference, and every one of them was given. So
repeating the prompt is worth nothing, and neither is a fluent sentence with the deciding word wrong.

    score = 100                                   if the texts are equal but for case, space and final punctuation
    score = 100 * (0.9 * decisive * order + 0.1 * closeness), at most 99                                 otherwise

decisive   recall times F2 measure of the answer's own words against the reference's own words: those not in the
           prompt, function words left out; 0 if exactly one of the two texts is negated. Where the reference has no
           words of its own (sort this list), the square of closeness stands in for it
order      edit similarity of the content words that both texts hold: a shuffled or repeated answer loses here
closeness  edit similarity of all words to the reference, scaled so that the best copy out of the prompt has 0

Another correct answer (a synonym the reference does not name) scores low: a limit of every reference-based metric.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

from rapidfuzz.distance import Indel

VERSION = 1  # part of every verdict's key: raise it with any change that can move a score

_NUMBER_COMMA = re.compile(r"(?<=\d),(?=\d{3}\b)")
_LIST_MARK = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)
_FINAL = " .!?;:,"
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "`": "'"})
_TOKEN = re.compile(r"(?<!\w)-?\d+(?:\.\d+)?%?(?!\w)|\w+(?:['-]\w+)*|[^\w\s'\",;:.!?]")
_FUNCTION = re.compile(
    r"an?|the|is|are|was|were|be|been|am|its?|this|that|these|those|there|here|of|to|in|on|at|by|for|from|with|as"
    r"|and|or|so|than|then|into|also"
)
_NEGATION = re.compile(r"not|no|never|none|nobody|nothing|cannot|without|neither|nor|\w+n't")


def reference_score(entry: Mapping[str, str]) -> int:
    """Score `model_response` against `output`, given `instruction` and `input`: a whole number from 0 to 100."""
    answer, reference = _plain(entry["model_response"]), _plain(entry["output"])
    if not answer:
        return 0
    if answer == reference:
        return 100
    instruction, text = _plain(entry["instruction"]), _plain(entry["input"])
    prompt = _words(f"{instruction}\n{text}")
    a, r = _words(answer), _words(reference)
    closeness = _closeness(a, r, copies=[prompt, _words(instruction), _words(text)])
    decisive = _decisive(a, r, given=frozenset(prompt))
    if decisive is None:
        decisive = closeness**2
    return min(99, round(100 * (0.9 * decisive * _order(a, r) + 0.1 * closeness)))


def _plain(text: str) -> str:
    """Case, space and final punctuation levelled; line breaks stay, since list marks stand after them."""
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).casefold()
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line).rstrip(_FINAL)


def _words(text: str) -> list[str]:
    """Words, numbers and signs such as `=`; list numbers, quotes and punctuation are layout and left out."""
    return _TOKEN.findall(_NUMBER_COMMA.sub("", _LIST_MARK.sub("", text)))


def _closeness(answer: Sequence[str], reference: Sequence[str], copies: Sequence[Sequence[str]]) -> float:
    start = max(Indel.normalized_similarity(copy, reference) for copy in copies)
    reached = Indel.normalized_similarity(answer, reference)
    return max(0.0, (reached - start) / (1 - start)) if start < 1 else 0.0


def _decisive(answer: Sequence[str], reference: Sequence[str], given: frozenset[str]) -> float | None:
    """Recall times F2 of the words that the prompt did not give; None if the reference has none."""
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
