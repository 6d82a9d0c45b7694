"""GPT-2's byte-level BPE: from published vocabulary files, or trained on a corpus; both run in tiktoken.

On disk a tokenizer is always the same folder, GPT-2's published layout: `vocab.json` and `merges.txt`, from which
we read, beside `tokenizer.json` and `tokenizer_config.json`, from which transformers does.
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
THREADS, PARTS = 8, 32  # of the texts that are encoded together; more parts, for long texts lie unevenly


@dataclass(frozen=True)
class TokenizerConfig:
    """Where the vocabulary comes from."""

    source: str  # a folder with vocab.json and merges.txt, or with the text files to train on
    vocab_size: int  # with <|endoftext|>, which takes the last id

    def problems(self) -> Iterator[Problem]:
        """What is wrong with these values together."""
        if self.vocab_size <= BYTES:
            what = f"{self.vocab_size} leaves no room beside the {BYTES} bytes and {END_OF_TEXT}"
            yield "vocab_size", what, "give 257 or more"


class Tokenizer:
    """Text to token ids and back. User text never becomes a special token (chapter 2 of the book, section 2.5)."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self.eot = len(ranks)  # <|endoftext|> stands last, as in GPT-2
        self.vocab_size = len(ranks) + 1
        self._encoding = tiktoken.Encoding(
            "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: self.eot}
        )

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read `vocab.json` and `merges.txt`; raises UserError where they do not fit each other."""
        folder = Path(folder)
        return cls(_ranks(folder / "vocab.json", folder / "merges.txt"))

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; `<|endoftext|>` in it is ordinary text."""
        return self._encoding.encode_ordinary(text)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of every text, in several threads."""
        some = max(1, len(texts) // PARTS)  # one text at a time, waking the threads would cost the most
        with ThreadPoolExecutor(THREADS) as pool:
            parts = pool.map(self._encode_some, (texts[at : at + some] for at in range(0, len(texts), some)))
            return [ids for part in parts for ids in part]

    def _encode_some(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; bytes that are not UTF-8 become U+FFFD."""
        return self._encoding.decode(list(ids))


def train(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train a byte-level BPE on `texts` and write it to `folder`.

    Raises UserError where the texts do not hold enough different pairs for `vocab_size`.
    """
    from tokenizers import Tokenizer as Trainable
    from tokenizers import models, pre_tokenizers, trainers

    bpe = Trainable(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # <|endoftext|> comes last, not first as the trainer would have it
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    if len(model["vocab"]) != vocab_size - 1:
        what = f"{vocab_size} asked for, but the corpus gives {len(model['vocab']) + 1} at most"
        raise UserError("params.yaml: tokenizer.vocab_size", what, "lower it, or bring more text", DATA)
    _write(model["vocab"], [" ".join(pair) for pair in model["merges"]], folder)


def adopt(source: Path, folder: Path) -> None:
    """Take over the published `vocab.json` and `merges.txt` of `source`; the other files are derived from them."""
    Tokenizer.load(source)
    vocab = read_json(source / "vocab.json")
    vocab.pop(END_OF_TEXT, None)
    _write(vocab, _merges(source / "merges.txt"), folder)


def copy(source: Path, folder: Path) -> None:
    """Copy a tokenizer's files into a model folder."""
    for name in FILES:
        shutil.copyfile(source / name, folder / name)


def fingerprint(folder: Path | str) -> str:
    """A hash that two tokenizers share only if they are the same; token files carry it."""
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
    """The bytes of every token with its id; the order of the merges must be the order of the ids."""
    vocab = read_json(vocab_file)
    if not isinstance(vocab, dict) or any(type(rank) is not int for rank in vocab.values()):
        raise UserError(str(vocab_file), "is not an object of tokens and their ids", "take GPT-2's vocab.json", DATA)
    end = vocab.pop(END_OF_TEXT, len(vocab))
    letters = _byte_letters()
    by_id = sorted(vocab, key=vocab.__getitem__)
    if set(by_id[:BYTES]) != set(letters):
        what = f"its first {BYTES} tokens are not the {BYTES} bytes of a byte-level BPE"
        raise UserError(str(vocab_file), what, "take GPT-2's vocab.json", DATA)
    merges = [merge.split(" ") for merge in _merges(merges_file)]
    pairs_of_tokens = all(len(pair) == 2 and pair[0] in vocab and pair[1] in vocab for pair in merges)
    follow = by_id[BYTES:] == ["".join(pair) for pair in merges]
    if not (pairs_of_tokens and follow and end == len(vocab) and sorted(vocab.values()) == list(range(len(vocab)))):
        what = f"{len(vocab)} tokens do not follow from the {len(merges)} merges in {merges_file.name}"
        raise UserError(str(vocab_file), what, "take both files from the same tokenizer", DATA)
    _check_pairs([(first, second) for first, second in merges], merges_file)
    to_byte = {letter: byte for byte, letter in enumerate(letters)}
    return {bytes(to_byte[letter] for letter in token): rank for token, rank in vocab.items()}


def _check_pairs(merges: list[tuple[str, str]], path: Path) -> None:
    """Raise UserError for a merge of other parts than those that the merges before it make of its token.

    Encoders that follow ranks, as tiktoken, and ones that follow pairs, as transformers, would disagree on it.
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
            what = f"merge {number} joins {first!r} and {second!r}, but those before it make {parts} of that"
            raise UserError(str(path), what, "take the merges in the order in which they were learned", DATA)
        ranks[first, second] = number


def _merges(path: Path) -> list[str]:
    return [line for line in read_text(path).split("\n") if line and not line.startswith("#version")]


def _byte_letters() -> list[str]:
    """The printable character that stands for each byte in GPT-2's files: itself, or one from U+0100 on."""
    letters, unused = [], BYTES
    for byte in range(BYTES):
        if chr(byte).isprintable() and chr(byte) != " ":
            letters.append(chr(byte))
        else:
            letters.append(chr(unused))
            unused += 1
    return letters
