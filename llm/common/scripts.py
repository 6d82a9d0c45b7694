"""Scripts that are written without spaces between words."""

from __future__ import annotations

import regex

# A pattern of the package `regex` for one letter. The sound marks of Japanese are common to two scripts.
WITHOUT_SPACES = (
    r"[\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}"
    r"\p{Balinese}\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Viet}\p{Yi}]"
)
_ONE = regex.compile(WITHOUT_SPACES)
_LETTER = regex.compile(r"\p{L}")


def is_without_spaces(text: str) -> bool:
    """Whether at least half of the letters belong to scripts that are written without spaces."""
    letters = _LETTER.findall(text)
    return bool(letters) and 2 * sum(_ONE.match(letter) is not None for letter in letters) >= len(letters)
