"""Check all of params.yaml -> .check/ok, before any stage can touch an output.

DVC deletes a stage's outputs before it runs the command, so a bad parameter must be found here. The output never
changes: an edit of the parameters runs this stage and then only what depends on the edit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm import files, params
from llm.classifier import FinetuneSpamConfig
from llm.download import Source
from llm.generate import RespondConfig
from llm.gpt2 import ImportSource
from llm.instructions import FinetuneInstructConfig
from llm.judge import JudgeConfig
from llm.model import ModelConfig
from llm.params import Problem
from llm.runtime import RuntimeConfig
from llm.tokenizer import TokenizerConfig
from llm.tokens import PretrainConfig
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
        short = self.pretrain.short_windows
        for key, context in [("context", self.pretrain.context), ("short_windows.context", short and short.context)]:
            if context and context > self.model.context_length:
                what = f"{context} is above model.context_length ({self.model.context_length})"
                yield f"pretrain.{key}", what, f"give {self.model.context_length} or less"
        for item in ("corpus", "spam", "instructions"):
            if item not in self.download:
                yield f"download.{item}", "missing", f"name a source: data/sample/{item}... or a file of yours"
        top_k = self.respond.decoding.top_k
        if top_k and top_k > self.tokenizer.vocab_size:
            what = f"{top_k} is above tokenizer.vocab_size ({self.tokenizer.vocab_size})"
            yield "respond.decoding.top_k", what, "lower it"


def main(everything: AllParams) -> None:
    """Reading it was the check."""
    with stage("check", everything) as run:
        files.write_text(run.out(".check/ok"), "params.yaml is valid\n")


if __name__ == "__main__":
    run_stage(main, AllParams, params.read_all)
