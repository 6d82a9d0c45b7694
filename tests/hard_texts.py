"""Texts that tokenizers disagree on: scripts, marks, digits, white space, control characters, special tokens."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable

SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|begin_of_text|> <|end_of_text|> <|eot_id|> <|start_header_id|>".split()
)
SPECIAL += "<|end_header_id|> <think> </think> <tool_call> <s> </s> <|user|> [INST] <repo_name>".split()
WORDS = (
    "The quick brown fox doesn't jump; I'll see, we've been, they're off, it's I'm you'd HE'S DON'T 'tis naïve".split()
)
SCRIPTS = [(0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF)]
SCRIPTS += [(0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3)]
SCRIPTS += [(0x2000, 0x2BFF), (0x1F300, 0x1FAFF), (0x1D400, 0x1D7FF), (0x20000, 0x2A6DF), (0xE0000, 0xE007F)]
SCRIPTS += [(0xF0000, 0xF00FF), (0x100000, 0x1000FF), (0xFF00, 0xFFEF), (0x300, 0x36F), (0x2150, 0x218F)]
SPACES = [
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\u00a0",
    "\u2003",
    "\u2028",
    "\u3000",
    "\x85",
    "\x0b",
    "\x0c",
]
ODD = [
    "\u200b",
    "\u200d",
    "\ufeff",
    "\u00ad",
    "\u202e",
    "\ufffd",
    "\ufffe",
    "ſ",
    "'ſ",
    "ß",
    "İ",
    "ﬁ",
    "ﷺ",
    "🏳️‍🌈",
    "👩‍👩‍👧‍👦",
]
MARKS = [
    "e\u0301",
    "é",
    "a\u0323\u0302",
    "\u1e69",
    "s\u0323\u0307",
    "\u0344",
    "각",
    "\u1100\u1161\u11a8",
    "Å",
    "\u212b",
    "क़",
]
NUMBERS = ["0", "7", "12", "345", "6789", "3.14", "1,000,000", "२३", "Ⅷ", "½", "x²", "2026-11-28", "0x1F", "١٢٣"]
PUNCTUATION = [
    "...",
    "!!",
    "?",
    "--",
    "''",
    '"',
    "_",
    "\\",
    "/",
    "(",
    ")",
    "{}",
    "=>",
    "#",
    "$1",
    "@a",
    "&amp;",
    "~",
    "^",
]

# Without the newest characters, on which libraries differ by their version of Unicode.
ASSIGNED = [[chr(n) for n in range(low, high + 1) if unicodedata.category(chr(n)) != "Cn"] for low, high in SCRIPTS]


def hard_texts(number: int, seed: int = 0) -> list[str]:
    """Return `number` texts. Every control character is in some of them."""
    chance = random.Random(seed)
    return ["".join(_piece(chance) for _ in range(chance.randrange(1, 16))) for _ in range(number)]


def _piece(chance: random.Random) -> str:
    kinds: list[Callable[[], str]] = [
        lambda: chance.choice(SPACES) * chance.randrange(1, 5),
        lambda: chance.choice(NUMBERS),
        lambda: chance.choice(SPECIAL),
        lambda: chr(chance.randrange(0x20)),
        lambda: chance.choice(ODD),
        lambda: chance.choice(MARKS),
        lambda: chance.choice(PUNCTUATION) * chance.randrange(1, 4),
        *[lambda: "".join(chance.choices(chance.choice(ASSIGNED), k=chance.randrange(1, 5)))] * 2,
        *[lambda: chance.choice(["", " ", " ", "\n"]) + chance.choice(WORDS)] * 3,
    ]
    return chance.choice(kinds)()
