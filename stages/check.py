"""Check all of params.yaml -> .check/ok, before any stage can touch an output.

DVC deletes a stage's outputs before it runs the command, so a bad parameter must be found here. The output never
changes: an edit of the parameters runs this stage and then only what depends on the edit.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llm import files, params
from llm.classifier import FinetuneSpamConfig
from llm.download import Source
from llm.errors import USAGE, UserError, raise_all
from llm.generate import RespondConfig
from llm.gpt2 import ImportSource
from llm.instruction_dataset import FinetuneInstructConfig
from llm.judge import JudgeConfig
from llm.model import ModelConfig
from llm.params import Problem
from llm.runtime import RuntimeConfig
from llm.token_windows import PretrainConfig
from llm.tokenizer import TokenizerConfig
from llm.tracking import TrackingConfig
from stages import run_stage, stage
from stages.tokenize import TokenizeConfig


@dataclass(frozen=True)
class AllParams:
    """Every section; a stage reads the ones it declares in dvc.yaml."""

    seed: int
    runtime: RuntimeConfig
    download: dict[str, Source]
    tokenizer: TokenizerConfig
    tokenize: TokenizeConfig
    model: ModelConfig
    pretrain: PretrainConfig
    import_gpt2: dict[str, ImportSource]
    finetune_spam: FinetuneSpamConfig
    finetune_instruct: FinetuneInstructConfig
    respond: RespondConfig
    judge: JudgeConfig
    tracking: TrackingConfig

    def problems(self) -> Iterator[Problem]:
        """What is wrong between sections."""
        if not 0 <= self.seed < 2**32:
            yield "seed", f"{self.seed} is not from 0 to {2**32 - 1}", "give a number in between"
        if self.model.vocab_size != self.tokenizer.vocab_size:
            what = f"{self.model.vocab_size} is not tokenizer.vocab_size ({self.tokenizer.vocab_size})"
            yield "model.vocab_size", what, "make them equal"
        if self.model.dropout_random == "packed" and self.runtime.device != "cpu":
            what = f"packed, which is for CPUs, but runtime.device is {self.runtime.device}"
            yield "model.dropout_random", what, "set it to each"
        rates = (self.model.dropout, self.model.embedding_rate, self.model.attention_rate)
        if self.model.dropout_random == "packed" and self.pretrain.compile and any(rates):
            what = "packed, which cannot be compiled, but pretrain.compile is true"
            yield "model.dropout_random", what, "set it to each, or pretrain.compile to false"
        short = self.pretrain.short_windows
        for key, context in [("context", self.pretrain.context), ("short_windows.context", short and short.context)]:
            if context and context > self.model.context_length:
                what = f"{context} is above model.context_length ({self.model.context_length})"
                yield f"pretrain.{key}", what, f"give {self.model.context_length} or less"
        longest = max(self.pretrain.context, short.context if short else 0)
        if self.tokenize.corpus.shard_tokens <= longest:
            what = f"{self.tokenize.corpus.shard_tokens} hold no window of {longest} tokens and its target"
            yield "tokenize.corpus.shard_tokens", what, f"give {longest + 1} or more, better a million"
        if self.pretrain.sample_tokens >= self.model.context_length:
            what = f"{self.pretrain.sample_tokens} is not below model.context_length ({self.model.context_length})"
            yield "pretrain.sample_tokens", what, "leave room for the tokens of sample_prompt"
        for item in ("corpus", "spam", "instructions"):
            if item not in self.download:
                yield f"download.{item}", "missing", f"name a source: data/sample/{item}... or a file of yours"
        for item in sorted({"pretrain", "spam", "instruct"} & set(self.import_gpt2)):
            yield f"import_gpt2.{item}", f"models/{item} is the output of another stage", "give it another name"
        top_k = self.respond.decoding.top_k
        if top_k and top_k > self.tokenizer.vocab_size:
            what = f"{top_k} is above tokenizer.vocab_size ({self.tokenizer.vocab_size})"
            yield "respond.decoding.top_k", what, "lower it"


def missing_sources(everything: AllParams) -> Iterator[UserError]:
    """The folders and files named in params.yaml that are neither on disk nor made by a stage."""
    made = {"data/tokenizer", "models/pretrain", *(f"models/{item}" for item in everything.import_gpt2)}
    made |= {f"data/raw/{item}" for item in everything.download}
    named = {f"download.{item}.source": source.source for item, source in everything.download.items()}
    named["tokenizer.source"] = everything.tokenizer.source
    for item, checkpoint in everything.import_gpt2.items():
        named[f"import_gpt2.{item}.source"] = checkpoint.source
        named[f"import_gpt2.{item}.tokenizer"] = checkpoint.tokenizer
    named["finetune_spam.init_from"] = everything.finetune_spam.init_from
    named["finetune_instruct.init_from"] = everything.finetune_instruct.init_from
    for key, path in named.items():
        if path in made or (key, path) == ("finetune_spam.init_from", "models/instruct"):  # DVC orders these stages
            continue
        if not Path(path).exists():
            near = difflib.get_close_matches(path, sorted(made), 1)
            fix = f"did you mean {near[0]}?" if near else "correct the path"
            yield UserError(f"params.yaml: {key}", f"{path!r} is not on disk, and no stage makes it", fix, USAGE)
        elif key.endswith(".init_from") and not Path(path, "config.json").is_file():
            yield UserError(f"params.yaml: {key}", f"{path!r} holds no config.json", "name a model folder", USAGE)
    for item in ("spam", "instructions"):
        source = everything.download.get(item)
        if source and not source.files and Path(source.source).is_dir():
            where = f"params.yaml: download.{item}.source"
            yield UserError(where, f"{source.source!r} is a folder", "name one file in it", USAGE)


def main(everything: AllParams) -> None:
    """Look whether all that is named is there; reading the parameters has checked the rest."""
    with stage("check", everything) as run:
        raise_all(list(missing_sources(everything)))
        files.write_text(run.out(".check/ok"), "params.yaml is valid\n")


if __name__ == "__main__":
    run_stage(main, AllParams, params.read_all)
