"""Cut the token ids of a corpus into training and validation, by tokens or by characters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from llm.common.errors import DATA, UserError
from llm.data.corpus import CorpusConfig, id_type
from llm.data.corpus_files import CorpusFiles
from llm.data.corpus_stream import Encoder, Part, TokenFile, read_parts
from llm.data.encode_blocks import ParallelConfig
from llm.data.tokenizer import Tokenizer

LEAST = 2  # tokens of a split: one to read and one to predict


@dataclass(frozen=True)
class Split:
    """The ids of a corpus in two parts, without the <|endoftext|> between them."""

    train: TokenFile
    val: TokenFile
    tokens: int  # of the whole corpus, with <|endoftext|> between two documents
    documents: int
    characters: int  # of the documents, without separators


def encode_corpus(
    files: CorpusFiles, config: CorpusConfig, tokenizer: Tokenizer, folder: Path, parallel: ParallelConfig
) -> Split:
    """Encode the corpus into files in `folder`, and split it. Raises UserError for text that is bad, or too short."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder = Encoder(tokenizer, folder / "ids", id_type(tokenizer.vocab_size), parallel)
    found: tuple[TokenFile, TokenFile, int] | None = None
    if config.split_by == "characters":
        characters = sum(len(part.text) for part in read_parts(files, config.separator))
        at = int(config.train_fraction * characters)
        found = _split_by_characters(encoder, read_parts(files, config.separator), at)
    else:
        encoder.write(read_parts(files, config.separator))
        if encoder.documents:
            found = _split_by_tokens(encoder, config.train_fraction)
    if found is None or min(len(found[0]), len(found[1])) < LEAST:
        sizes = f"{len(found[0])} for training, {len(found[1])} for validation" if found else "no document"
        what = f"too little text for two splits: {sizes} (tokens; {LEAST} are the least)"
        raise UserError(str(files.folder), what, "add text", DATA)
    return Split(*found, encoder.documents, encoder.characters)


def _split_by_tokens(encoder: Encoder, fraction: float) -> tuple[TokenFile, TokenFile, int]:
    """Cut at the end of the document that is nearest to the fraction of the tokens.

    If the smaller split would get less than half, or more than one and a half times, of the tokens that it should get,
    cut inside the document, at the very token.
    """
    ids, tokens = encoder.ids(), encoder.count - 1  # without the last <|endoftext|>
    target = round(fraction * tokens)
    ends = np.memmap(encoder.ends, np.int64, "r")[:-1]
    after = int(np.searchsorted(ends, target))
    near = [int(end) for end in ends[max(0, after - 1) : after + 1]]
    cut = min(near, key=lambda end: abs(end - target), default=0)
    if near and abs(cut - target) <= min(fraction, 1 - fraction) * tokens / 2:
        return ids.between(0, cut), ids.between(cut + 1, tokens), tokens
    return ids.between(0, target), ids.between(target, tokens), tokens


def _split_by_characters(encoder: Encoder, parts: Iterator[Part], at: int) -> tuple[TokenFile, TokenFile, int]:
    """Encode the first `at` characters and the others separately, as the book does. The cut may be inside a word."""
    last = Part("", ends=False)
    halves: list[Part] = []

    def first() -> Iterator[Part]:
        nonlocal at, last
        while at > 0 and (part := next(parts, None)):
            if len(part.text) > at:
                halves.extend((Part(part.text[:at], part.ends), Part(part.text[at:], part.ends)))
                part = Part(part.text[:at], ends=False)
            at, last = at - len(part.text), part
            yield part

    encoder.write(first())
    cut = encoder.count - last.ends
    begun = encoder.count
    encoder.write(chain(halves[1:], parts))
    ids = encoder.ids()
    train, val = ids.between(0, cut), ids.between(begun, max(begun, encoder.count - 1))
    whole = len(train) + len(val) + last.ends
    if halves:
        left, right = (half.text for half in halves)
        encode = encoder.tokenizer.encode
        whole += len(encode(left + right)) - len(encode(left)) - len(encode(right))
    return train, val, whole
