"""Tokenize the corpus: data/raw/corpus, data/tokenizer -> data/corpus, reports/tokenize/corpus.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.data import corpus, tokenizer
from llm.data.corpus import CorpusConfig
from llm.data.tokenizer import Tokenizer
from stages.run import from_section, point_to_source, run_stage, stage

RAW, TOKENIZER = Path("data/raw/corpus"), Path("data/tokenizer")


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    corpus: CorpusConfig


def main(params: Params) -> None:
    """Write token shards of the training and the validation documents, and count them."""
    config = params.corpus
    with stage("tokenize@corpus", {"tokenize.corpus": config}) as run, point_to_source():
        folder = run.out("data/corpus")
        folder.mkdir()
        vocabulary = Tokenizer.load(TOKENIZER)
        pins = corpus.Pins(vocabulary.vocab_size, tokenizer.fingerprint(TOKENIZER))
        documents = corpus.read_documents(RAW, config.separator)
        counts: dict[str, Any] = {"documents": len(documents), "characters": sum(map(len, documents))}
        splits = zip(("train", "val"), corpus.split_documents(documents, config.train_fraction), strict=True)
        for split, part in splits:
            ids = corpus.encode_documents(part, vocabulary)
            text_bytes = sum(len(document.encode()) for document in part)
            corpus.write_shards(folder, split, ids, text_bytes, pins, config.shard_tokens)
            counts[f"{split}_tokens"] = len(ids)
        if len(documents) > 1:
            counts["tokens"] = counts["train_tokens"] + 1 + counts["val_tokens"]  # <|endoftext|> between the two
        else:  # the split may cut a token in two
            counts["tokens"] = len(vocabulary.encode(documents[0]))
        run.write_metrics(counts, path="reports/tokenize/corpus.json")


if __name__ == "__main__":
    run_stage(main, Params, from_section("tokenize"))
