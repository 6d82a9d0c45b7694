"""Chapter 2: The Verdict in words and in tokens, and its windows."""

from __future__ import annotations

from llm.book import ch02
from llm.book.measures.common import Measured, measure
from llm.book.measures.sources import Sources


@measure
def verdict_length(sources: Sources) -> Measured:
    """Characters and GPT-2 tokens of The Verdict."""
    return [len(sources.verdict), len(sources.gpt2.encode(sources.verdict))]


@measure
def verdict_words(sources: Sources) -> Measured:
    """Tokens of the regex tokenizer, its vocabulary, and that with two special tokens."""
    tokens = ch02.words(sources.verdict)
    extended = ch02.vocabulary(tokens, [ch02.END_OF_TEXT, ch02.UNKNOWN])
    return [len(tokens), len(ch02.vocabulary(tokens)), len(extended)]


@measure
def encode(sources: Sources, prompt: str) -> Measured:
    """Ids of a text, `<|endoftext|>` in it as one token."""
    ids: list[float] = []
    for number, part in enumerate(prompt.split(ch02.END_OF_TEXT)):
        ids += ([sources.gpt2.eot] if number else []) + sources.gpt2.encode(part)
    return ids


@measure
def windows(sources: Sources, length: str, stride: str, rows: str, of: str) -> Measured:
    """The first rows of the unshuffled loader, one after the other: of inputs, or of inputs and then targets."""
    ids = sources.gpt2.encode(sources.verdict)
    loader = ch02.window_loader(ids, 1, int(length), int(stride), shuffle=False)
    batches = [dict(zip(("inputs", "targets"), b, strict=True)) for b, _ in zip(loader, range(int(rows)), strict=False)]
    return [number for part in of.split() for batch in batches for number in batch[part][0].tolist()]
