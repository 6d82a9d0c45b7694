"""Byte-level BPE, from published files or trained on a corpus. Encoding uses tiktoken.

A tokenizer of ours has GPT-2's published layout: `vocab.json` and `merges.txt`, and `tokenizer.json` and
`tokenizer_config.json` for transformers. Other byte-level tokenizers are read from their `tokenizer.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tiktoken_ext.openai_public import r50k_pat_str

from llm.common.errors import DATA, UserError
from llm.common.files import sha256, write_json, write_text
from llm.common.params import Problem
from llm.data import chat_template, other_tokenizers, special_tokens, tokenizer_files
from llm.data.byte_letters import BYTES
from llm.data.chat_template import ChatTemplate, Segment
from llm.data.pieces import RUN, without_long_spaces
from llm.data.special_tokens import END_OF_TEXT
from llm.data.tokenizer_files import Vocabulary

PAIR = ("vocab.json", "merges.txt")
FILES = (*PAIR, "tokenizer.json", "tokenizer_config.json")
# Files that published tokenizers have besides these, or instead of them.
MORE_FILES = ("added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json")
THREADS, PARTS = 8, 32  # of `encode_all`; more parts than threads, because parts take unequal time


@dataclass(frozen=True)
class TokenizerConfig:
    """Section `tokenizer` of params.yaml."""

    source: str  # folder with tokenizer.json, or vocab.json and merges.txt, or text files for training
    vocab_size: int  # with special tokens; a trained tokenizer has <|endoftext|> as its last id

    def problems(self) -> Iterator[Problem]:
        if self.vocab_size <= BYTES:
            what = f"{self.vocab_size} is too small for {BYTES} bytes and {END_OF_TEXT}"
            yield "vocab_size", what, "give 257 or more"


class Tokenizer:
    """Converts text to token ids and back (section 2.5).

    A text of a user never gives a special token. `special` has the ids of all added tokens by their text, `ends` those
    that end a text, the first of which, `eot`, ends a document, and `bos` is put before every text, or None.
    `vocab_size` is the highest id + 1; the embedding of a model may have more rows. `chat` is the chat template, or
    None.
    """

    def __init__(
        self, vocabulary: Vocabulary, ends: Sequence[int], chat: ChatTemplate | None = None, where: str = "tokenizer"
    ) -> None:
        self._vocabulary, self.ends, self.chat = vocabulary, list(ends), chat
        self.special, self.bos, self.eot = vocabulary.special, vocabulary.bos, ends[0]
        self.nfc = vocabulary.nfc
        ranks = vocabulary.ranks
        tokens = {rank: token for part in (ranks, vocabulary.others) for token, rank in part.items()}
        self._tokens = tokens | {rank: token.encode() for token, rank in self.special.items()}
        self.vocab_size = max(self._tokens) + 1
        # tiktoken panics at a byte without a token, so each gets an id that never leaves this class.
        missing = [bytes([byte]) for byte in range(BYTES) if bytes([byte]) not in ranks]
        self._missing = b"".join(missing)
        self._as_gpt2 = vocabulary.pattern == r50k_pat_str and not vocabulary.nfc and not missing
        hidden = {byte: self.vocab_size + number for number, byte in enumerate(missing)}
        try:
            self._encoding = tiktoken.Encoding(
                "bpe", pat_str=vocabulary.pattern, mergeable_ranks=ranks | hidden, special_tokens=self.special
            )
        except ValueError as error:
            what = f"the pattern of pre_tokenizer cannot be used: {' '.join(str(error).split())}"
            raise UserError(where, what, other_tokenizers.FIX, DATA) from None
        longest_first = sorted(self.special, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first))})" if longest_first else "((?!))")

    @classmethod
    def load(cls, folder: Path | str, weights: Path | None = None) -> Tokenizer:
        """Read the tokenizer of a folder, the ids that end a text there, and the chat template.

        `weights` is the folder of the model, if it is another one: the ids that it names end a text too. Raises
        UserError if files are damaged, do not match, or are of a kind that is not supported.
        """
        folder = Path(folder)
        vocabulary = tokenizer_files.read(folder)
        ends = special_tokens.ends(folder, vocabulary.special, vocabulary.ids)
        if weights is not None:
            ends = list(dict.fromkeys([*ends, *special_tokens.declared(weights, vocabulary.ids)]))
        return cls(vocabulary, ends, chat_template.load(folder, vocabulary.special), str(folder))

    def copy(self) -> Tokenizer:
        """An equal tokenizer that shares no state with this one, for another thread. It takes milliseconds."""
        return Tokenizer(self._vocabulary, self.ends, self.chat)

    @property
    def begin(self) -> str:
        """The text of `bos`; empty if there is none."""
        return "" if self.bos is None else self._tokens[self.bos].decode()

    def begin_id(self, folder: Path) -> int:
        """The id that a config.json calls the begin of a text: `bos`, or what the files of `folder` name, or `eot`."""
        if self.bos is not None:
            return self.bos
        named = special_tokens.names(folder).get("bos_token", "")
        if named in self.special:
            return self.special[named]
        return next(iter(special_tokens.declared(folder, self._vocabulary.ids, "bos_token_id")), self.eot)

    @property
    def end(self) -> str:
        return self._tokens[self.eot].decode()

    def encode(self, text: str) -> list[int]:
        """Return the token ids of `text`. Special tokens in it are ordinary text."""
        text = self._normalize(text)
        if len(text) < RUN:
            ids = self._encoding.encode_ordinary(text)
        elif self._as_gpt2:
            ids = [id_ for part in without_long_spaces(text) for id_ in self._encoding.encode_ordinary(part)]
        else:  # where a long run of white space can be cut is known for GPT-2's pattern only
            return list(self._exact.encode(text).ids)
        if self._missing and max(ids, default=0) >= self.vocab_size:
            return list(self._exact.encode(text).ids)  # Hugging Face leaves such bytes out before it merges
        return ids

    def encode_joined(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """Return the token ids of all texts (N,), with the end of text between two texts.

        With GPT-2's pattern, one call of tiktoken, in which other threads run, encodes all texts.
        """
        end = self.end
        if not self._as_gpt2 or any(end in text for text in texts):  # in a text, it is ordinary text
            ids = [id_ for text in texts for id_ in (*self.encode(text), self.eot)]
            return np.array(ids[:-1], dtype=np.uint32)
        joined = end.join(texts)
        try:
            joined.encode()
        except UnicodeEncodeError:  # a lone surrogate becomes U+FFFD, as in `encode`
            joined = joined.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        parts = without_long_spaces(joined)
        return np.concatenate([self._encoding.encode_to_numpy(part, allowed_special={end}) for part in parts])

    def byte_sizes(self) -> NDArray[np.uint32]:
        """Return the number of bytes of each id's text (vocab_size,); 0 for special tokens."""
        sizes = np.array([len(self._tokens.get(id_, b"")) for id_ in range(self.vocab_size)], dtype=np.uint32)
        sizes[list(self.special.values())] = 0
        return sizes

    def encode_prompt(self, text: str) -> list[int]:
        """Return the token ids of a text that a model reads alone: `bos`, if there is one, and those of `text`."""
        return self.encode(text) if self.bos is None else [self.bos, *self.encode(text)]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, computed in several threads."""
        size = max(1, len(texts) // PARTS)  # one text at a time, switching threads would dominate
        with ThreadPoolExecutor(THREADS) as pool:
            parts = (texts[start : start + size] for start in range(0, len(texts), size))
            encoded = pool.map(lambda part: [self.encode(text) for text in part], parts)
            return [ids for part in encoded for ids in part]

    def encode_segments(self, segments: Iterable[Segment]) -> tuple[list[int], list[bool]]:
        """Return the ids of the joined segments, and for each id whether it has characters that are trained.

        A special token is special only where a segment that is `special` has all of it. The text between two of them
        is encoded as one, as Hugging Face does.
        """
        ids, trained = list[int](), list[bool]()
        run: list[tuple[str, bool]] = []  # text since the last special token
        for segment in segments:
            parts = self._special.split(segment.text) if segment.special else [segment.text]
            for number, part in enumerate(parts):
                if number % 2 == 0:
                    run.append((part, segment.trained))
                    continue
                self._add(run, ids, trained)
                run = []
                ids.append(self.special[part])
                trained.append(segment.trained)
        self._add(run, ids, trained)
        return ids, trained

    def _add(self, run: Sequence[tuple[str, bool]], ids: list[int], trained: list[bool]) -> None:
        new = self.encode("".join(text for text, _ in run))
        ids += new
        if len({flag for _, flag in run}) < 2:
            trained += [flag for _, flag in run[:1]] * len(new)
            return
        flags, text = bytearray(), ""  # a flag for each byte
        for part, flag in run:
            text += part
            flags += bytes([flag]) * (self._size(text) - len(flags))
        end = 0
        for token in new:
            start, end = end, end + len(self._tokens[token])
            trained.append(1 in flags[start:end])

    def _size(self, text: str) -> int:
        """The number of bytes that have tokens."""
        return len(self._normalize(text).encode("utf-8", "surrogatepass").translate(None, self._missing))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids, special tokens included. Invalid UTF-8 becomes U+FFFD."""
        return self.bytes_of(ids).decode("utf-8", "replace")

    def bytes_of(self, ids: Iterable[int]) -> bytes:
        """The bytes of the ids. An id without a token has none: embeddings may have more rows than there are tokens."""
        return b"".join(self._tokens.get(token, b"") for token in ids)

    @cached_property
    def stops(self) -> frozenset[int]:
        """The ids that end an answer: those that end a text, and the one that ends a turn of the chat template."""
        turn = self.chat.end_of_turn() if self.chat else None
        return frozenset(self.ends) | ({self.special[turn]} if turn in self.special else set())

    def _normalize(self, text: str) -> str:
        if not self.nfc or text.isascii():
            return text
        from tokenizers import normalizers  # Python's own NFC depends on its version

        return str(normalizers.NFC().normalize_str(text))

    @cached_property
    def _exact(self) -> Any:
        """Hugging Face's encoder, for texts that tiktoken cannot encode."""
        from tokenizers import Tokenizer as HuggingFace

        return HuggingFace.from_str(str(self._vocabulary.exact))


def train(texts: Iterable[str], vocab_size: int, folder: Path, where: str = "tokenizer.vocab_size") -> None:
    """Train a byte-level BPE on `texts` and write it to `folder`.

    Raises UserError at the key `where` of params.yaml if the texts are too short for `vocab_size`.
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
        raise UserError(f"params.yaml: {where}", what, "lower it, or add text", DATA)
    _write(model["vocab"], [(first, second) for first, second in model["merges"]], folder)


def adopt(source: Path, folder: Path) -> None:
    """Make a tokenizer folder with a `tokenizer.json`: its own, or one for `vocab.json` and `merges.txt`.

    Raises UserError as `Tokenizer.load` does.
    """
    if not (source / "tokenizer.json").is_file() and tokenizer_files.is_pair(source):
        _write(*tokenizer_files.read_pair(source), folder)
        return
    Tokenizer.load(source)
    folder.mkdir(parents=True, exist_ok=True)
    copy(source, folder)


def copy(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer into a model folder, which gets a `tokenizer.json` for a pair with more tokens."""
    made = None if (source / "tokenizer.json").is_file() else tokenizer_files.from_pair(source)
    if made is not None:
        write_text(folder / "tokenizer.json", made)
    for name in (*FILES, *MORE_FILES):
        if (source / name).is_file() and (made is None or name not in PAIR):
            shutil.copyfile(source / name, folder / name)


def fingerprint(folder: Path | str) -> str:
    """Return a hash that identifies the tokenizer. Token shards contain it.

    It is that of the vocabulary, or of `tokenizer.json` where this says more than `vocab.json` and `merges.txt` do.
    """
    folder = Path(folder)
    if not (folder / "tokenizer.json").is_file() and (made := tokenizer_files.from_pair(folder)) is not None:
        return hashlib.sha256(made.encode()).hexdigest()
    return sha256(folder / ("vocab.json" if tokenizer_files.is_pair(folder) else "tokenizer.json"))


def _write(vocab: dict[str, int], merges: list[tuple[str, str]], folder: Path) -> None:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Writable

    folder.mkdir(parents=True, exist_ok=True)
    fast = Writable(models.BPE(vocab=vocab, merges=merges))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.ByteLevel(trim_offsets=False)
    fast.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    write_text(folder / "tokenizer.json", fast.to_str())
    by_id = sorted(vocab, key=vocab.__getitem__)
    write_json(folder / "vocab.json", {token: vocab[token] for token in by_id} | {END_OF_TEXT: len(vocab)})
    lines = [" ".join(merge) for merge in merges]
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *lines]) + "\n")
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, **special}
    )
