"""Tokenize the corpus: data/raw/corpus, data/tokenizer -> data/corpus, reports/tokenize/corpus.json."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llm.data import corpus, tokenizer
from llm.data.corpus import CorpusConfig
from llm.data.corpus_files import CorpusFiles, DocumentsConfig
from llm.data.corpus_split import encode_corpus
from llm.data.corpus_stream import text_bytes
from llm.data.encode_blocks import ParallelConfig
from llm.data.tokenizer import Tokenizer
from stages.run import from_section, point_to_source, run_stage, stage

RAW, TOKENIZER = Path("data/raw/corpus"), Path("data/tokenizer")


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    documents: DocumentsConfig
    corpus: CorpusConfig


@dataclass(frozen=True)
class _Parallel:
    """Read outside of Params: it decides no result, so a change of it runs no stage again."""

    parallel: ParallelConfig


def main(params: Params) -> None:
    """Write token shards of the training and the validation text, and count them."""
    config, parallel = params.corpus, from_section("tokenize")(_Parallel).parallel
    with stage("tokenize@corpus", {"tokenize": params}) as run, point_to_source():
        folder = run.out("data/corpus")
        vocabulary = Tokenizer.load(TOKENIZER)
        pins = corpus.Pins(vocabulary.vocab_size, tokenizer.fingerprint(TOKENIZER))
        files = CorpusFiles(RAW, params.documents, run.say, partial(run.received, "corpus"))
        unsplit = run.work / "unsplit"
        shutil.rmtree(unsplit, ignore_errors=True)  # of a run that was killed
        try:
            found = encode_corpus(files, config, vocabulary, unsplit, parallel)
            sizes = vocabulary.byte_sizes()
            for split, ids in (("train", found.train), ("val", found.val)):
                corpus.write_shards(folder, split, ids, text_bytes(ids, sizes), pins, config.shard_tokens)
        finally:
            shutil.rmtree(unsplit, ignore_errors=True)
        counts: dict[str, Any] = {"documents": found.documents, "characters": found.characters}
        counts |= {"train_tokens": len(found.train), "val_tokens": len(found.val), "tokens": found.tokens}
        counts |= {"files": len(files.paths), "skipped_files": len(files.skipped)}
        if files.blank or files.guessed:
            counts |= {"blank_records": files.blank, "guessed_field": ", ".join(sorted(files.guessed))}
        run.say(f"files: {len(files.paths):,}, documents: {found.documents:,}, tokens: {found.tokens:,}")
        run.write_metrics(counts, path="reports/tokenize/corpus.json")


if __name__ == "__main__":
    run_stage(main, Params, from_section("tokenize"))
