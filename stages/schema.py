"""All sections of params.yaml, and the rules between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm.common.params import Problem
from llm.data.corpus import CorpusConfig
from llm.data.download import Source
from llm.data.instructions import InstructionsConfig
from llm.data.spam import SpamConfig
from llm.data.tokenizer import TokenizerConfig
from llm.evaluate.judge import JudgeConfig
from llm.model.config import ModelParams
from llm.runtime.device import RuntimeConfig
from llm.tracking.tracker import TrackingConfig
from stages.finetune_instruct import FinetuneInstructConfig
from stages.finetune_spam import FinetuneSpamConfig
from stages.import_gpt2 import ImportSource
from stages.pretrain import PretrainConfig
from stages.respond import RespondConfig


@dataclass(frozen=True)
class TokenizeConfig:
    """How each data set is cut into splits."""

    corpus: CorpusConfig
    spam: SpamConfig
    instructions: InstructionsConfig


@dataclass(frozen=True)
class AllParams:
    """Every section; a stage reads the ones it declares in dvc.yaml."""

    seed: int
    runtime: RuntimeConfig
    download: dict[str, Source]
    tokenizer: TokenizerConfig
    tokenize: TokenizeConfig
    model: ModelParams
    pretrain: PretrainConfig
    import_gpt2: dict[str, ImportSource]
    finetune_spam: FinetuneSpamConfig
    finetune_instruct: FinetuneInstructConfig
    respond: RespondConfig
    judge: JudgeConfig
    tracking: TrackingConfig

    def problems(self) -> Iterator[Problem]:
        """Contradictions between sections."""
        if not 0 <= self.seed < 2**32:
            yield "seed", f"{self.seed} is not from 0 to {2**32 - 1}", "give a number in between"
        yield from self._computing()
        yield from self._lengths()
        for item in ("corpus", "spam", "instructions"):
            if item not in self.download:
                yield f"download.{item}", "missing", f"name a source: data/sample/{item}... or a file of yours"
        for item in sorted({"pretrain", "spam", "instruct"} & set(self.import_gpt2)):
            yield f"import_gpt2.{item}", f"models/{item} is the output of another stage", "give it another name"
        top_k = self.respond.decoding.top_k
        if top_k and top_k > self.tokenizer.vocab_size:
            what = f"{top_k} is above tokenizer.vocab_size ({self.tokenizer.vocab_size})"
            yield "respond.decoding.top_k", what, "lower it"

    def _computing(self) -> Iterator[Problem]:
        """Settings of the runtime, the model and the compiler that exclude each other."""
        if self.runtime.kernels == "portable" and self.pretrain.compile:
            yield "runtime.kernels", "portable, but pretrain.compile is true", "set it to native"
        if self.model.dropout_random != "packed":
            return
        if self.runtime.device != "cpu":
            what = f"packed, which is for CPUs, but runtime.device is {self.runtime.device}"
            yield "model.dropout_random", what, "set it to each"
        if self.pretrain.compile and any((self.model.dropout, self.model.embedding_rate, self.model.attention_rate)):
            what = "packed, which cannot be compiled, but pretrain.compile is true"
            yield "model.dropout_random", what, "set it to each, or pretrain.compile to false"

    def _lengths(self) -> Iterator[Problem]:
        """Windows and samples that do not fit into the model's context or into a shard."""
        limit, short = self.model.context_length, self.pretrain.short_windows
        for key, context in [("context", self.pretrain.context), ("short_windows.context", short and short.context)]:
            if context and context > limit:
                yield f"pretrain.{key}", f"{context} is above model.context_length ({limit})", f"give {limit} or less"
        longest = max(self.pretrain.context, short.context if short else 0)
        if self.tokenize.corpus.shard_tokens <= longest:
            what = f"{self.tokenize.corpus.shard_tokens} tokens do not hold a window of {longest} and its target"
            yield "tokenize.corpus.shard_tokens", what, f"give {longest + 1} or more, better a million"
        if self.pretrain.sample_tokens >= limit:
            what = f"{self.pretrain.sample_tokens} is not below model.context_length ({limit})"
            yield "pretrain.sample_tokens", what, "leave room for the tokens of sample_prompt"
