"""Cut text where the token ids of its parts are those of the whole, so that a long text need not be held or encoded at
once.

GPT-2's pattern (`r50k_pat_str`) cuts text into words before the merges, and merges never cross words. So a cut between
two words changes no id, if the pattern finds the same words on both sides. It looks ahead in two places only: white
space that ends the text, and white space before other text. No cut here is in white space, except before the last white
space character of a run: there the pattern ends a word itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# White space of Unicode, as in the pattern; Python's own \s also has the separators U+001C to U+001F.
SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LETTER = r"A-Za-zÀ-ÖØ-öø-ɏぁ-ゖァ-ヺ一-龥가-힣"  # letters of every version of Unicode
# Between two characters that no word of the pattern holds side by side. Each is also right for the patterns of GPT-4
# and GPT-4o. In that of GPT-4o, an apostrophe and what follows, as in "don't", belong to the word.
BETWEEN_WORDS = re.compile(
    rf"(?<=\S)(?= )|(?<=[{LETTER}0-9])(?=[\n\t])|(?<=[A-Za-z])(?=[0-9])|(?<=[{LETTER}0-9])(?=[!-&(-/:-@。，、！？])"
)
SPACES_BEFORE_WORD = re.compile(rf"[{SPACE}]{{2,}}(?=\S)")
SPACES = re.compile(rf"[{SPACE}]*")
SAME_KIND = re.compile(rf"[{SPACE}]+|[^\W\d_]+|\d+|(?:[^\w\s]|[_\x1c-\x1f])+")  # about one word
RUN = 250_000  # white space characters; tiktoken's regular expressions fail at a million before a word


def last_cut(text: str, end: int) -> int:
    """Return the last position up to `end` where `text` can be cut without changing an id; 0 if there is none."""
    end = min(end, len(text) - 1)
    for size in (1 << 8, 1 << 14, end):
        start = max(0, end - size)
        if cuts := [found.start() for found in BETWEEN_WORDS.finditer(text[start : end + 1])]:
            return start + cuts[-1]
        if start == 0:
            break
    spaces = SPACES_BEFORE_WORD.match(text)
    return spaces.end() - 1 if spaces and spaces.end() <= end else 0


def pieces(text: str, size: int) -> Iterator[str]:
    """Yield the parts of `text`, of at most `size` characters each, or of one word that is longer."""
    start = 0
    while len(text) - start > size:
        cut = last_cut(text[start : start + size + 1], size)
        if not cut:
            further = BETWEEN_WORDS.search(text, start + size)
            if not further:
                break
            cut = further.start() - start
        yield text[start : start + cut]
        start += cut
    yield text[start:]


def without_long_spaces(text: str) -> list[str]:
    """Cut `text` so that no part has a run of 2 x RUN white space characters before other text.

    On such runs, tiktoken's regular expressions run out of stack. The cost for other text is next to nothing.
    """
    parts, start, at = [], 0, 0
    while at < len(text):  # a long run is at one of these positions
        end = at
        if text[at].isspace() and (found := SPACES.match(text, at)):
            end = found.end()
            if end - at >= RUN and end < len(text):
                parts.append(text[start : end - 1])
                start = end - 1
        at = max(at, end) + RUN
    return [*parts, text[start:]]


def without_long_words(text: str, size: int = 4096) -> Iterator[str]:
    """Cut words longer than 2 x `size` characters, also white space, into words of `size`; keep all others whole.

    For training a BPE only: there, the time of a word grows with the square of its length, and the cuts change ids.
    """
    start, at = 0, 0
    while at < len(text):  # a long word is at one of these positions
        found = SAME_KIND.match(text, at)
        end = found.end() if found else at
        while end - at >= size:
            at += size
            yield text[start:at]
            start = at
        at = max(at, end) + size
    yield text[start:]
