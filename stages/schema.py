"""All sections of params.yaml, and the rules between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

from llm.common.params import Problem
from llm.data.corpus import CorpusConfig
from llm.data.corpus_files import DocumentsConfig
from llm.data.encode_blocks import ParallelConfig
from llm.data.instructions import InstructionsConfig
from llm.data.source import Source
from llm.data.spam import SpamConfig
from llm.data.tokenizer import TokenizerConfig
from llm.evaluate.judge_config import JudgeConfig
from llm.model.config import ModelParams
from llm.preference.pairs import PreferencesConfig
from llm.runtime.device import RuntimeConfig
from llm.tracking.config import TrackingConfig
from stages.launch import LaunchConfig
from stages.sections.finetune_dpo import FinetuneDpoConfig
from stages.sections.finetune_instruct import FinetuneInstructConfig
from stages.sections.finetune_spam import FinetuneSpamConfig
from stages.sections.import_gpt2 import ImportSource
from stages.sections.preference_base import PreferenceBaseConfig
from stages.sections.pretrain import PretrainConfig
from stages.sections.reason_distill import DistillConfig, StudentConfig
from stages.sections.reason_evaluate import ReasonEvaluateConfig
from stages.sections.reason_problems import ReasonProblemsConfig
from stages.sections.reason_rl import ReasonRlConfig
from stages.sections.reason_sft import ReasonControlConfig, ReasonSftConfig
from stages.sections.respond import RespondConfig


@dataclass(frozen=True)
class TokenizeConfig:
    """How each data set is read and cut into splits."""

    parallel: ParallelConfig
    documents: DocumentsConfig
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
    preferences: PreferencesConfig
    preference_base: PreferenceBaseConfig
    finetune_dpo: FinetuneDpoConfig
    reason_problems: ReasonProblemsConfig
    reason_model: ModelParams
    reason_sft: ReasonSftConfig
    reason_control: ReasonControlConfig
    reason_rl: ReasonRlConfig
    reason_student: StudentConfig
    reason_distill: dict[str, DistillConfig]
    reason_models: dict[str, str]
    reason_evaluate: ReasonEvaluateConfig
    tracking: TrackingConfig
    launch: LaunchConfig

    def problems(self) -> Iterator[Problem]:
        """Contradictions between sections."""
        if not 0 <= self.seed < 2**32:
            yield "seed", f"{self.seed} is not from 0 to {2**32 - 1}", "give a number in between"
        yield from self._student()
        yield from self._computing()
        yield from self._lengths()
        for item in ("corpus", "spam", "instructions", "reasoning"):
            if item not in self.download:
                yield f"download.{item}", "missing", f"name a source: data/sample/{item}... or a file of yours"
        for item in sorted({"pretrain", "spam", "instruct", "preference_base", "dpo"} & set(self.import_gpt2)):
            yield f"import_gpt2.{item}", f"models/{item} is the output of another stage", "give it another name"
        top_k = self.respond.decoding.top_k
        if top_k and top_k > self.tokenizer.vocab_size:
            what = f"{top_k} is above tokenizer.vocab_size ({self.tokenizer.vocab_size})"
            yield "respond.decoding.top_k", what, "lower it"

    def _student(self) -> Iterator[Problem]:
        """What is wrong with the shape of a student, if nothing is with that of reason_model."""
        sizes = {field.name for field in fields(self.reason_student)}
        wrong = [] if list(self.reason_model.problems()) else self.reason_student.shape(self.reason_model).problems()
        for name, what, fix in wrong:
            if name in sizes:
                yield f"reason_student.{name}", what, fix
            else:
                yield "reason_student.n_head", f"reason_model.{name}: {what}", "give another n_head"

    def _computing(self) -> Iterator[Problem]:
        """Settings of the runtime, the model and the compiler that exclude each other."""
        if self.runtime.kernels == "portable" and self.pretrain.compile:
            yield "runtime.kernels", "portable, but pretrain.compile is true", "set it to native"
        yield from self.launch.problems_with(self.runtime.ranks)
        if self.runtime.ranks > 1:
            yield from self._divided()
        for name, model in (("model", self.model), ("reason_model", self.reason_model)):
            if model.dropout_random == "packed" and self.runtime.device != "cpu":
                what = f"packed, which is for CPUs, but runtime.device is {self.runtime.device}"
                yield f"{name}.dropout_random", what, "set it to each"
        drops = any((self.model.dropout, self.model.embedding_rate, self.model.attention_rate))
        if self.model.dropout_random == "packed" and self.pretrain.compile and drops:
            what = "packed, which cannot be compiled, but pretrain.compile is true"
            yield "model.dropout_random", what, "set it to each, or pretrain.compile to false"

    def _divided(self) -> Iterator[Problem]:
        """Settings that several ranks exclude."""
        fix = "set runtime.ranks to 1"
        if self.runtime.device == "mps":
            yield "runtime.device", f"mps, but runtime.ranks is {self.runtime.ranks}", fix
        if self.pretrain.compile:
            yield "pretrain.compile", f"true, but runtime.ranks is {self.runtime.ranks}", f"set it to false, or {fix}"
        if self.pretrain.mode == "book":
            yield "pretrain.mode", f"book, which is one process, but runtime.ranks is {self.runtime.ranks}", fix

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
        most = self.tokenize.instructions.max_tokens
        if most and most > limit and self._starts_from_own_model():
            what = f"{most} is above model.context_length ({limit})"
            yield "tokenize.instructions.max_tokens", what, f"give {limit} or less, or null"
        if self.pretrain.sample_tokens >= limit:
            what = f"{self.pretrain.sample_tokens} is not below model.context_length ({limit})"
            yield "pretrain.sample_tokens", what, "leave room for the tokens of sample_prompt"

    def _starts_from_own_model(self) -> bool:
        """Whether finetune_instruct starts from the model that pretrain writes."""
        name = self.finetune_instruct.init_from
        imported = self.import_gpt2.get(name.removeprefix("models/"))
        return "models/pretrain" in (name, imported and imported.source)
