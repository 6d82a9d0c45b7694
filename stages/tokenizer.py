"""Train a BPE on text files, or take over a published vocabulary: `tokenizer.source` -> data/tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llm.common.errors import USAGE, UserError
from llm.data import other_tokenizers, tokenizer, tokenizer_files
from llm.data.corpus_files import CorpusFiles, DocumentsConfig
from llm.data.corpus_stream import read_parts
from llm.data.pieces import without_long_words
from llm.data.special_tokens import TOKENIZER_CONFIG
from llm.data.tokenizer import Tokenizer, TokenizerConfig
from stages.run import from_section, point_to_source, run_stage, stage

PART = 1 << 15  # characters; the trainer reads 256 parts ahead
TEXT_BYTES = (*b"\t\n\r", *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF5))  # in UTF-8, without controls


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    tokenizer: TokenizerConfig
    documents: DocumentsConfig


def main(params: Params) -> None:
    """A folder with a vocab.json or tokenizer.json is a vocabulary; any other is text to train on."""
    source = Path(params.tokenizer.source)
    settings = {"tokenizer": params.tokenizer, "tokenize.documents": params.documents}
    with stage("tokenizer", settings) as run, point_to_source():
        folder = run.out("data/tokenizer")
        if any((source / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            tokenizer.adopt(source, folder)
        else:
            other_tokenizers.refuse(source, TOKENIZER_CONFIG)
            files = CorpusFiles(source, params.documents, run.say, partial(run.received, "text"))
            parts = read_parts(files, separator=None, size=PART)
            texts = (text for part in parts for text in without_long_words(part.text))
            tokenizer.train(texts, params.tokenizer.vocab_size, folder)
        size = Tokenizer.load(folder).vocab_size
        if size != params.tokenizer.vocab_size:
            what = f"{params.tokenizer.vocab_size}, but {source} holds {size} tokens"
            raise UserError("params.yaml: tokenizer.vocab_size", what, f"set it to {size}", USAGE)
        ranks = tokenizer_files.read(folder).ranks
        if lost := sum(bytes([byte]) not in ranks for byte in TEXT_BYTES):
            run.say(f"{lost} bytes of UTF-8 have no token; characters with them are left out")
        run.say(f"{size} tokens")


if __name__ == "__main__":
    run_stage(main, Params, from_section("tokenize"))
