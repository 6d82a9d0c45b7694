"""The files of a byte-level BPE: GPT-2's `vocab.json` and `merges.txt`, and the `tokenizer.json` of Hugging Face.

Both are read into a `Vocabulary`, whose ids are the ones that Hugging Face's encoder gives.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tiktoken_ext.openai_public import r50k_pat_str

from llm.common.errors import DATA, UserError, raise_all
from llm.common.files import parse_json, read_json, read_text
from llm.data import other_tokenizers, slow_tokenizer, tokenizer_steps
from llm.data.byte_letters import BYTES, LETTERS, to_bytes
from llm.data.decoding import has_lone_surrogate
from llm.data.other_tokenizers import FIX
from llm.data.special_tokens import END_OF_TEXT

VISIBLE = re.compile(r'[^\s"\\\x00-\x1f\x7f]')
DAMAGED = "use the file of the published tokenizer"
NEVER = sys.maxsize  # the rank of a pair that is not merged
IDS = 2**31  # ids are below it
PATTERNS = "ByteLevel, after Digits or one Split by a regular expression or nothing, without a prefix space,"
# A token with one of these flags also takes characters beside it; none of the supported families has one.
FLAGS = ("single_word", "lstrip", "rstrip")
# The only supported values of these keys of `model`, all of which mean "not used".
UNUSED = {
    "dropout": (None, 0),
    "byte_fallback": (None, False),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
}


@dataclass(frozen=True)
class Vocabulary:
    """A byte-level BPE. Every id belongs to one of `ranks`, `others` and `special`."""

    ranks: dict[bytes, int]  # the tokens of text: bytes, and what merges make of them; lower ids are merged first
    special: dict[str, int]  # added tokens by their text, such as <|endoftext|>
    others: dict[bytes, int] = field(default_factory=dict)  # tokens that no text gives
    pattern: str = r50k_pat_str  # cuts a text into pieces, which merges do not cross
    nfc: bool = False  # texts are normalised to NFC first
    bos: int | None = None  # put before every text by Hugging Face's encoder
    exact: str | None = field(default=None, compare=False)  # tokenizer.json without added tokens

    @property
    def ids(self) -> set[int]:
        return {number for part in (self.ranks, self.others, self.special) for number in part.values()}


def read(folder: Path) -> Vocabulary:
    """Read `tokenizer.json`, else `vocab.json` and `merges.txt`. Raises UserError for damage or an unsupported kind."""
    if (path := folder / "tokenizer.json").is_file():
        return _parsed(read_text(path), path)
    if not (folder / "vocab.json").is_file():
        other_tokenizers.refuse(folder, "vocab.txt")  # BERT's, which Chinese GPT-2s have
    if (made := from_pair(folder)) is not None:
        return _parsed(made, folder / "vocab.json")
    return _of_pair(folder)


@lru_cache(maxsize=1)  # a stage that loads a tokenizer also identifies it
def _parsed(text: str, path: Path) -> Vocabulary:
    return parse(parse_json(text, path), str(path))


def is_pair(folder: Path) -> bool:
    """Whether `vocab.json` and `merges.txt` hold the whole tokenizer of a folder, perhaps beside a `tokenizer.json`."""
    if not (folder / "tokenizer.json").is_file():
        return from_pair(folder) is None
    try:
        return read(folder) == _of_pair(folder)
    except UserError:  # there is no such pair, or of another kind than GPT-2's
        return False


def from_pair(folder: Path) -> str | None:
    """The `tokenizer.json` of a pair with more added tokens than <|endoftext|>; None if it has no others."""
    if not (added := slow_tokenizer.added_tokens(folder)):
        return None
    vocab, merges = read_pair(folder)
    path = folder / "vocab.json"
    if END_OF_TEXT in read_json(path):
        added = {END_OF_TEXT: slow_tokenizer.token(END_OF_TEXT, len(vocab))} | added
    return json.dumps(slow_tokenizer.tokenizer_json(vocab, merges, added, str(path)), ensure_ascii=False, indent=2)


def _of_pair(folder: Path) -> Vocabulary:
    vocab, _ = read_pair(folder)
    return Vocabulary({to_bytes(token): rank for token, rank in vocab.items()}, {END_OF_TEXT: len(vocab)})


def read_pair(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read `vocab.json`, without <|endoftext|>, and `merges.txt`. Raises UserError if they do not match."""
    vocab_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    vocab = _ids(read_json(vocab_file), str(vocab_file))
    end = vocab.pop(END_OF_TEXT, len(vocab))
    by_id = sorted(vocab, key=vocab.__getitem__)
    if set(by_id[:BYTES]) != set(LETTERS):
        what = f"its first {BYTES} tokens are not the {BYTES} bytes of a byte-level BPE"
        raise UserError(str(vocab_file), what, "use GPT-2's vocab.json", DATA)
    lines = [line for line in read_text(merges_file).split("\n") if line and not line.startswith("#version")]
    pairs = [tuple(line.split(" ")) for line in lines]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2 and pair[0] in vocab and pair[1] in vocab]
    match = len(merges) == len(pairs) and by_id[BYTES:] == ["".join(pair) for pair in merges]
    if match and end != len(vocab):
        what = f"{END_OF_TEXT} has the id {end}, not {len(vocab)}, the last one"
        raise UserError(str(vocab_file), what, "use its tokenizer.json", DATA)
    if not match or sorted(vocab.values()) != list(range(len(vocab))):
        what = f"{len(vocab)} tokens do not match the {len(pairs)} merges in {merges_file.name}"
        raise UserError(str(vocab_file), what, "use both files of the same tokenizer", DATA)
    _check_merges(vocab, merges, str(merges_file), ignore_merges=False)
    return vocab, merges


def parse(published: Any, where: str) -> Vocabulary:
    """Read the object of a `tokenizer.json`; raises UserError that lists every key that is not supported."""
    if not isinstance(published, Mapping) or not isinstance(published.get("model"), Mapping):
        raise UserError(where, "is not a tokenizer: it has no object `model`", FIX, DATA)
    model, problems = published["model"], _Problems(where)
    if model.get("type", "BPE") != "BPE":
        problems.add("model.type", model["type"], "BPE")
    for key, fine in UNUSED.items():
        if model.get(key) not in fine:
            problems.add(f"model.{key}", model[key], json.dumps(fine[-1]))
    pattern = problems.read(published, "pre_tokenizer", PATTERNS, tokenizer_steps.pattern)
    nfc = problems.read(published, "normalizer", "NFC", tokenizer_steps.is_nfc)
    special = _added(published.get("added_tokens") or [], problems)
    begin = partial(tokenizer_steps.begin, special=special)
    bos = problems.read(published, "post_processor", "one special token before the text, or none,", begin)
    raise_all(problems.found)
    vocab = _ids(model.get("vocab"), f"{where}: model.vocab")
    text = {token: number for token, number in vocab.items() if token not in special}
    merges = _merges(model.get("merges"), text, where)
    _check_ids(vocab, special, where)
    _check_added(vocab, special, where)
    _check_unknown(model.get("unk_token"), text, where)
    ignore_merges = bool(model.get("ignore_merges"))
    _check_merges(text, merges, where, ignore_merges)
    made = {first + second for first, second in merges}
    used = {t: n for t, n in text.items() if ignore_merges or len(t) == 1 or t in made}
    return Vocabulary(
        ranks={to_bytes(token): number for token, number in used.items()},
        special=special,
        others={to_bytes(token): number for token, number in text.items() if token not in used},
        pattern=pattern,
        nfc=nfc,
        bos=bos,
        exact=_without_added(published, text),
    )


class _Problems:
    """Collects one problem for each key of a tokenizer.json that is not supported."""

    def __init__(self, where: str) -> None:
        self.where, self.found = where, list[UserError]()

    def add(self, key: str, value: Any, supported: str) -> None:
        shown = json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()  # lone surrogates
        shown = shown if len(shown) <= 60 else shown[:60] + "..."
        self.found.append(UserError(self.where, f"{key} is {shown}, only {supported} is supported", FIX, DATA))

    def read(self, published: Mapping[str, Any], key: str, supported: str, read: Callable[[Any], Any]) -> Any:
        """What `read` makes of the value of `key`; None if it raises ValueError, which adds a problem."""
        try:
            return read(published.get(key))
        except ValueError:
            self.add(key, published.get(key), supported)
            return None


def _added(published: Any, problems: _Problems) -> dict[str, int]:
    """The ids of the added tokens by their text. Text of users never gives these ids."""
    special: dict[str, int] = {}
    for number, token in enumerate(published if isinstance(published, list) else [published]):
        key = f"added_tokens[{number}]"
        content, rank = (token.get("content"), token.get("id")) if isinstance(token, Mapping) else (None, None)
        if not isinstance(content, str) or type(rank) is not int or not 0 <= rank < IDS:
            problems.add(key, token, f"an object with id, below {IDS:,}, and content")
        elif has_lone_surrogate(content):
            problems.add(key, token, "a token without lone surrogates")
        elif not VISIBLE.search(content) or any(token.get(flag) for flag in FLAGS):
            problems.add(key, token, f"a visible token without {', '.join(FLAGS)}")
        else:
            special[content] = rank
    return special


def _ids(vocab: Any, where: str) -> dict[str, int]:
    if not isinstance(vocab, dict) or any(type(rank) is not int for rank in vocab.values()):
        raise UserError(where, "is not an object of tokens and ids", DAMAGED, DATA)
    for token, number in vocab.items():
        if number >= IDS:
            what = f"the token {token!r:.60} has the id {number!r:.60}, not one below {IDS:,}"
            raise UserError(where, what, DAMAGED, DATA)
    return vocab


def _merges(published: Any, vocab: Mapping[str, int], where: str) -> list[tuple[str, str]]:
    """The merges, each written as "a b" or as a pair."""
    merges: list[tuple[str, str]] = []
    for number, merge in enumerate(published if isinstance(published, list) else [published]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or any(type(part) is not str for part in pair):
            what = f"model.merges[{number}] is {merge!r:.60}, not two tokens"
            raise UserError(where, what, DAMAGED, DATA)
        first, second = pair
        if first not in vocab or second not in vocab or first + second not in vocab:
            what = f"model.merges[{number}] joins {first!r:.60} and {second!r:.60}"
            raise UserError(where, f"{what}, but not all three are in model.vocab", DAMAGED, DATA)
        merges.append((first, second))
    return merges


def _check_ids(vocab: Mapping[str, int], special: Mapping[str, int], where: str) -> None:
    """Raise UserError if two tokens have one id, one token has two, or a token is not made of bytes."""
    owner: dict[int, str] = {}
    for token, number in [*vocab.items(), *special.items()]:
        other = owner.setdefault(number, token)
        if other != token or vocab.get(token, number) != number or number < 0:
            what = f"the ids of {other!r:.60} and {token!r:.60} contradict each other ({number})"
            raise UserError(where, what, DAMAGED, DATA)
        if token not in special and not LETTERS.keys() >= set(token):
            raise UserError(where, f"the token {token!r:.60} is not written in letters of bytes", FIX, DATA)


def _check_added(vocab: Mapping[str, int], special: Mapping[str, int], where: str) -> None:
    """Raise UserError for an added token with another id than Hugging Face's, which reads no id outside `model.vocab`.

    The others get the ids from the size of the vocabulary on, in the order of the file.
    """
    for given, token in enumerate((token for token in special if token not in vocab), len(vocab)):
        if (number := special[token]) != given:
            what = f"the added token {token!r:.60} has the id {number}, not {given}, which Hugging Face gives it"
            fix = "sort added_tokens by id, or add those with ids of their own to model.vocab"
            raise UserError(where, what, fix, DATA)


def _check_unknown(token: Any, vocab: Mapping[str, int], where: str) -> None:
    """Raise UserError if Hugging Face writes a token for bytes that have none; here they are left out."""
    missing = [byte for letter, byte in LETTERS.items() if letter not in vocab]
    if token not in (None, "") and missing:
        what = f"model.unk_token is {token!r:.60}, but {len(missing)} bytes have no token, such as 0x{min(missing):02x}"
        raise UserError(where, f"{what}; only null is supported then", FIX, DATA)


def _check_merges(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], where: str, ignore_merges: bool) -> None:
    """Raise UserError if encoding by ids (tiktoken) could differ from encoding by merges (Hugging Face).

    tiktoken merges the pair whose token has the lowest id. The last merge of a token is always of the same two parts,
    those where it stands alone. So both ways are equal if these pairs are merges, in the order of the ids of their
    tokens. tiktoken also looks whole pieces up: what is not the end of its own merges needs `ignore_merges`.
    """
    number_of = {pair: number for number, pair in enumerate(merges)}
    made = {first + second: number for number, (first, second) in reversed(list(enumerate(merges)))}
    ranks = {token: number for token, number in vocab.items() if ignore_merges or len(token) == 1 or token in made}
    latest = -1
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) == 1:
            continue
        parts = _last_parts(token, ranks)
        if len(parts) > 2 and ignore_merges:
            continue
        number = number_of.get((parts[0], parts[1])) if len(parts) == 2 else None
        if number is None or number < latest:
            what = f"no merge joins {parts} to a token"
            if number is not None:
                what = f"merge {number} joins {parts}, whose id is above that of merge {latest}"
            elif token in made:
                first, second = merges[made[token]]
                what = f"merge {made[token]} joins {first!r} and {second!r}, but the merges before it give {parts}"
            raise UserError(where, what, "use the merges in the order of training", DATA)
        latest = number


def _last_parts(token: str, ranks: Mapping[str, int]) -> list[str]:
    """The two parts that the last merge of the token joins, or more parts if merges do not get that far."""
    parts = list(token)
    scores = [ranks.get(first + second, NEVER) for first, second in pairwise(parts)]
    while len(parts) > 2 and (best := min(scores)) < NEVER:
        at = scores.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del scores[at]
        if at > 0:
            scores[at - 1] = ranks.get(parts[at - 1] + parts[at], NEVER)
        if at < len(scores):
            scores[at] = ranks.get(parts[at] + parts[at + 1], NEVER)
    return parts


def _without_added(published: Mapping[str, Any], text: Mapping[str, int]) -> str:
    """The tokenizer.json of an encoder that knows no added tokens, and leaves out bytes without a token."""
    model = {**published["model"], "vocab": dict(text), "unk_token": None}
    steps = {key: published.get(key) for key in ("normalizer", "pre_tokenizer")}
    return json.dumps({"version": "1.0", "added_tokens": [], "model": model, **steps})
