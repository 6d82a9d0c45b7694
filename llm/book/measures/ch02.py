"""Chapter 2: The Verdict as words, as tokens, and as windows."""

from __future__ import annotations

from llm.book import ch02
from llm.book.measures.common import Measured, measure
from llm.book.measures.sources import Sources


@measure
def verdict_length(sources: Sources) -> Measured:
    """Characters of The Verdict, and its GPT-2 tokens."""
    return [len(sources.verdict), len(sources.gpt2.encode(sources.verdict))]


@measure
def verdict_words(sources: Sources) -> Measured:
    """Tokens of the simple tokenizer, the size of its vocabulary, and the size with two special tokens."""
    tokens = ch02.words(sources.verdict)
    extended = ch02.vocabulary(tokens, [ch02.END_OF_TEXT, ch02.UNKNOWN])
    return [len(tokens), len(ch02.vocabulary(tokens)), len(extended)]


@measure
def encode(sources: Sources, prompt: str) -> Measured:
    """GPT-2's ids of a text; each `<|endoftext|>` in it becomes one token."""
    ids: list[float] = []
    for number, part in enumerate(prompt.split(ch02.END_OF_TEXT)):
        ids += ([sources.gpt2.eot] if number else []) + sources.gpt2.encode(part)
    return ids


@measure
def windows(sources: Sources, length: str, stride: str, rows: str, of: str) -> Measured:
    """The first windows of The Verdict, in order: their inputs, or with `of` "inputs targets" also their targets."""
    loader = ch02.create_dataloader_v1(sources.verdict, sources.gpt2, 1, int(length), int(stride), shuffle=False)
    batches = [dict(zip(("inputs", "targets"), b, strict=True)) for b, _ in zip(loader, range(int(rows)), strict=False)]
    return [number for part in of.split() for batch in batches for number in batch[part][0].tolist()]
