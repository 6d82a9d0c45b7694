"""Byte-level BPE as in GPT-2, from published files or trained on a corpus. Encoding uses tiktoken.

A tokenizer folder has GPT-2's published layout: `vocab.json` and `merges.txt`, which this module reads, and
`tokenizer.json` and `tokenizer_config.json` for transformers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tiktoken
from tiktoken_ext.openai_public import r50k_pat_str

from llm.common.errors import DATA, UserError
from llm.common.files import read_json, read_text, sha256, write_json, write_text
from llm.common.params import Problem

END_OF_TEXT = "<|endoftext|>"
FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")
BYTES = 256
THREADS, PARTS = 8, 32  # of `encode_all`; more parts than threads, because parts take unequal time


@dataclass(frozen=True)
class TokenizerConfig:
    """Section `tokenizer` of params.yaml."""

    source: str  # folder with vocab.json and merges.txt, or with text files for training
    vocab_size: int  # with <|endoftext|>, which is the last id

    def problems(self) -> Iterator[Problem]:
        if self.vocab_size <= BYTES:
            what = f"{self.vocab_size} is too small for {BYTES} bytes and {END_OF_TEXT}"
            yield "vocab_size", what, "give 257 or more"


class Tokenizer:
    """Converts text to token ids and back (section 2.5). User text is never encoded as a special token."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self.eot = len(ranks)  # <|endoftext|> is the last id, as in GPT-2
        self.vocab_size = len(ranks) + 1
        self._encoding = tiktoken.Encoding(
            "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: self.eot}
        )

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read `vocab.json` and `merges.txt`. Raises UserError if they do not match."""
        return cls(_ranks(Path(folder, "vocab.json"), Path(folder, "merges.txt")))

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`. `<|endoftext|>` in it is ordinary text."""
        return self._encoding.encode_ordinary(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, computed in several threads."""
        size = max(1, len(texts) // PARTS)  # one text at a time, switching threads would dominate
        with ThreadPoolExecutor(THREADS) as pool:
            parts = (texts[start : start + size] for start in range(0, len(texts), size))
            encoded = pool.map(lambda part: [self.encode(text) for text in part], parts)
            return [ids for part in encoded for ids in part]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids. Invalid UTF-8 becomes U+FFFD."""
        return self._encoding.decode(list(ids))


def train(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE on `texts` and write it to `folder`.

    Raises UserError if the texts are too short for `vocab_size`.
    """
    from tokenizers import Tokenizer as Trainable
    from tokenizers import models, pre_tokenizers, trainers

    bpe = Trainable(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # <|endoftext|> is added at the end; the trainer would put it first
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    if len(model["vocab"]) != vocab_size - 1:
        what = f"{vocab_size}, but the corpus gives at most {len(model['vocab']) + 1} tokens"
        raise UserError("params.yaml: tokenizer.vocab_size", what, "lower it, or add text", DATA)
    _write(model["vocab"], [" ".join(pair) for pair in model["merges"]], folder)


def adopt(source: Path, folder: Path) -> None:
    """Make a tokenizer folder from the published `vocab.json` and `merges.txt` in `source`."""
    Tokenizer.load(source)
    vocab = read_json(source / "vocab.json")
    vocab.pop(END_OF_TEXT, None)
    _write(vocab, _merges(source / "merges.txt"), folder)


def copy(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer into a model folder."""
    for name in FILES:
        shutil.copyfile(source / name, folder / name)


def fingerprint(folder: Path | str) -> str:
    """Return a hash that identifies the tokenizer. Token shards contain it."""
    return sha256(Path(folder) / "vocab.json")


def _write(vocab: dict[str, int], merges: list[str], folder: Path) -> None:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Writable

    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(first, second) for first, second in (merge.split(" ") for merge in merges)]
    fast = Writable(models.BPE(vocab=vocab, merges=pairs))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.ByteLevel(trim_offsets=False)
    fast.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    write_text(folder / "tokenizer.json", fast.to_str())
    by_id = sorted(vocab, key=vocab.__getitem__)
    write_json(folder / "vocab.json", {token: vocab[token] for token in by_id} | {END_OF_TEXT: len(vocab)})
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **special},
    )


def _ranks(vocab_file: Path, merges_file: Path) -> dict[bytes, int]:
    """Return bytes and id of each token. Raises UserError if ids and merges are not in the same order."""
    vocab = read_json(vocab_file)
    if not isinstance(vocab, dict) or any(type(rank) is not int for rank in vocab.values()):
        raise UserError(str(vocab_file), "is not an object of tokens and ids", "use GPT-2's vocab.json", DATA)
    end = vocab.pop(END_OF_TEXT, len(vocab))
    letters = _byte_letters()
    by_id = sorted(vocab, key=vocab.__getitem__)
    if set(by_id[:BYTES]) != set(letters):
        what = f"its first {BYTES} tokens are not the {BYTES} bytes of a byte-level BPE"
        raise UserError(str(vocab_file), what, "use GPT-2's vocab.json", DATA)
    merges = [merge.split(" ") for merge in _merges(merges_file)]
    pairs_of_tokens = all(len(pair) == 2 and pair[0] in vocab and pair[1] in vocab for pair in merges)
    follow = by_id[BYTES:] == ["".join(pair) for pair in merges]
    if not (pairs_of_tokens and follow and end == len(vocab) and sorted(vocab.values()) == list(range(len(vocab)))):
        what = f"{len(vocab)} tokens do not match the {len(merges)} merges in {merges_file.name}"
        raise UserError(str(vocab_file), what, "use both files of the same tokenizer", DATA)
    _check_pairs([(first, second) for first, second in merges], merges_file)
    to_byte = {letter: byte for byte, letter in enumerate(letters)}
    return {bytes(to_byte[letter] for letter in token): rank for token, rank in vocab.items()}


def _check_pairs(merges: list[tuple[str, str]], path: Path) -> None:
    """Raise UserError if the earlier merges split the token of a merge into other parts than its two.

    Encoders by rank (tiktoken) and by pair (transformers) would disagree on such a token.
    """
    ranks: dict[tuple[str, str], int] = {}
    for number, (first, second) in enumerate(merges):
        parts = list(first + second)
        while len(parts) > 1:
            pairs = [ranks.get(pair, number) for pair in pairwise(parts)]
            best = min(pairs)
            if best == number:
                break
            at = pairs.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if parts != [first, second]:
            what = f"merge {number} joins {first!r} and {second!r}, but the merges before it give {parts}"
            raise UserError(str(path), what, "use the merges in the order of training", DATA)
        ranks[first, second] = number


def _merges(path: Path) -> list[str]:
    return [line for line in read_text(path).split("\n") if line and not line.startswith("#version")]


def _byte_letters() -> list[str]:
    """Return the character of each byte in GPT-2's files: the byte itself if printable, else one from U+0100 on."""
    letters, unused = [], BYTES
    for byte in range(BYTES):
        if chr(byte).isprintable() and chr(byte) != " ":
            letters.append(chr(byte))
        else:
            letters.append(chr(unused))
            unused += 1
    return letters
