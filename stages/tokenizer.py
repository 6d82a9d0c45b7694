"""Train a BPE on text files, or take over a published vocabulary: `tokenizer.source` -> data/tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm.common.errors import USAGE, UserError
from llm.data import corpus, tokenizer
from llm.data.tokenizer import Tokenizer, TokenizerConfig
from stages.run import point_to_source, run_stage, stage


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    tokenizer: TokenizerConfig


def main(params: Params) -> None:
    """A folder with a vocab.json is a vocabulary; any other is text to train on."""
    source = Path(params.tokenizer.source)
    with stage("tokenizer", params) as run, point_to_source():
        folder = run.out("data/tokenizer")
        if (source / "vocab.json").is_file():
            tokenizer.adopt(source, folder)
        else:
            texts = corpus.read_documents(source, separator=None)
            tokenizer.train(texts, params.tokenizer.vocab_size, folder)
        size = Tokenizer.load(folder).vocab_size
        if size != params.tokenizer.vocab_size:
            what = f"{params.tokenizer.vocab_size}, but {source} holds {size} tokens"
            raise UserError("params.yaml: tokenizer.vocab_size", what, f"set it to {size}", USAGE)
        run.say(f"{size} tokens")


if __name__ == "__main__":
    run_stage(main, Params)
