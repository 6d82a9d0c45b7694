"""From files to token shards in constant memory: documents in parts, encoded in blocks, written in order, then split.

The ids go to a temporary file first, since a cut at a fraction of the tokens needs their number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm.common.errors import DATA, UserError, problems_of, raise_first
from llm.data.corpus import Ids, blocks
from llm.data.corpus_files import CorpusFiles
from llm.data.encode_blocks import Encode, ParallelConfig, encode_blocks
from llm.data.pieces import last_cut, pieces
from llm.data.special_tokens import END_OF_TEXT
from llm.data.tokenizer import Tokenizer

PART = 1 << 20  # characters that are encoded at once
LONGEST_WORD = 1 << 23  # characters in a row that cannot be cut
Splitter = Callable[[str], list[str]]


class Part(NamedTuple):
    """A part of a document. Ids of the parts in a row are those of the document."""

    text: str
    ends: bool  # the document ends with it


def splitter(separator: str | None) -> Splitter:
    """Return the function that splits a text at the separator. A line of white space counts as an empty line.

    Line ends in a separator are LF, as in the texts that are read.
    """
    if separator is None:
        return lambda text: [text]
    separator = separator.replace("\r\n", "\n").replace("\r", "\n")
    if set(separator) == {"\n"} and len(separator) > 1:
        return re.compile(r"[^\S\n]*".join(separator)).split
    return lambda text: text.split(separator)


def read_parts(files: CorpusFiles, separator: str | None, size: int = PART) -> Iterator[Part]:
    """Yield the documents of all files, in parts of about `size` characters. Blank documents are left out.

    Raises UserError with the problems of all files, after the last one.
    """
    problems: list[UserError] = []
    for path in files.paths:
        try:
            for part in _parts_of(path, files, separator, size):
                if not problems:
                    yield part
        except UserError as error:
            problems += problems_of(error)
    raise_first(problems, str(files.folder))


def _parts_of(path: Path, files: CorpusFiles, separator: str | None, size: int) -> Iterator[Part]:
    texts = files.texts(path)
    if texts is not None:
        if separator is None or END_OF_TEXT not in separator:
            texts = _noting_end_of_text(texts, files, path)
        yield from split_parts(texts, separator, size, str(path))
        return
    for text in files.records(path):
        yield from _in_parts(text, size)


def _noting_end_of_text(texts: Iterable[str], files: CorpusFiles, path: Path) -> Iterator[str]:
    """Yield the texts, and say once if they have <|endoftext|>, which is encoded as ordinary text."""
    before = ""
    for text in texts:
        if END_OF_TEXT in text or END_OF_TEXT in before + text[: len(END_OF_TEXT)]:
            files.note(f"has {END_OF_TEXT} as ordinary text; to split there, set tokenize.corpus.separator to it", path)
        before = (before + text)[-len(END_OF_TEXT) :]
        yield text


def split_parts(texts: Iterable[str], separator: str | None, size: int, where: str) -> Iterator[Part]:
    """Split a text, which comes in any parts, into documents; yield these in parts of about `size` characters.

    Raises UserError for a word longer than LONGEST_WORD.
    """
    split, begun, rest = splitter(separator), False, ""
    for text in texts:
        *ended, rest = split(rest + text)
        for document in ended:
            if begun or document.strip():
                yield from _in_parts(document, size)
            begun = False
        while len(rest) > size:
            cut = last_cut(rest, len(rest) - len(separator or ""))
            if not cut:
                break
            yield from (Part(piece, ends=False) for piece in pieces(rest[:cut], size))
            rest, begun = rest[cut:], True
        if len(rest) > LONGEST_WORD:
            what = f"{len(rest):,} characters in a row without a place between two words, from {rest[:20]!r} on"
            raise UserError(where, what, "put white space or line ends into it, or remove it", DATA)
    if begun or rest.strip():
        yield from _in_parts(rest, size)


def _in_parts(document: str, size: int) -> Iterator[Part]:
    if len(document) <= size:
        yield Part(document, ends=True)
        return
    *others, last = pieces(document, size)
    yield from (Part(piece, ends=False) for piece in others)
    yield Part(last, ends=True)


@dataclass(frozen=True)
class TokenFile:
    """Token ids on disk; a slice of it is read when it is asked for."""

    path: Path
    kind: Any  # numpy type
    start: int = 0
    stop: int = 0

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> NDArray[Any]:
        first, last, _ = part.indices(len(self))
        size = np.dtype(self.kind).itemsize
        return np.fromfile(self.path, self.kind, max(0, last - first), offset=(self.start + first) * size)

    def between(self, start: int, stop: int) -> TokenFile:
        return replace(self, start=self.start + start, stop=self.start + stop)


@dataclass
class Encoder:
    """Encodes parts and appends their ids to one file, with <|endoftext|> after each document."""

    tokenizer: Tokenizer
    path: Path
    kind: Any  # numpy type of the ids
    parallel: ParallelConfig
    count: int = field(default=0, init=False)  # ids written
    documents: int = field(default=0, init=False)
    characters: int = field(default=0, init=False)

    @property
    def ends(self) -> Path:
        """The file with the position of each <|endoftext|>, as int64."""
        return self.path.with_suffix(".ends")

    def ids(self) -> TokenFile:
        return TokenFile(self.path, self.kind, 0, self.count)

    def write(self, parts: Iterable[Part]) -> None:
        """Append the ids of the parts. Holds a few blocks for each worker."""
        encode = Encode(self.tokenizer, self.kind)
        with self.path.open("ab") as file, self.ends.open("ab") as ends:
            for ids in encode_blocks(encode, self._blocks(parts), self.parallel):
                file.write(ids.data)
                ends.write((np.flatnonzero(ids == self.tokenizer.eot) + self.count).astype(np.int64).data)
                self.count += len(ids)

    def _blocks(self, parts: Iterable[Part]) -> Iterator[list[str]]:
        """Yield lists of texts of about PART characters. An empty last text means that the document has ended."""
        texts, size = [""], 0
        for part in parts:
            self.documents += part.ends
            self.characters += len(part.text)
            texts[-1] += part.text
            size += len(part.text) + 1
            if part.ends:
                texts.append("")
            if size >= PART:
                yield texts
                texts, size = [""], 0
        if size:
            yield texts


def text_bytes(ids: Ids, sizes: NDArray[np.uint32]) -> int:
    """Return the size of the text in bytes, given the `byte_sizes` of the tokenizer."""
    return sum(int(sizes[block].sum(dtype=np.int64)) for block in blocks(ids))
