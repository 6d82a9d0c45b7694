"""The section `reason_problems` of params.yaml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llm.common.params import Problem, at_least_zero
from llm.data.tokenizer import TokenizerConfig
from llm.reason.families import Addition, Clock
from llm.reason.problems import SPLITS, Split, Style
from llm.reason.verifiers import VerifierName


@dataclass(frozen=True)
class ReasonProblemsConfig:
    """Where the problems come from, and how their answers are written and checked."""

    family: Literal["clock", "addition", "file"]
    clock: Clock
    addition: Addition
    train: int  # problems of each split; of a file, all are taken
    rl: int
    validation: int
    test: int
    verifier: VerifierName
    style: Style
    vocab_size: int  # of the tokenizer that is trained on the problems; 257: a token for each byte

    def problems(self) -> Iterator[Problem]:
        yield from at_least_zero(self, *SPLITS)
        if self.family != "file" and not any(self.counts.values()):
            yield SPLITS[0], f"0, and so are {', '.join(SPLITS[1:])}", "give a number of problems"
        yield from TokenizerConfig("problems", self.vocab_size).problems()

    @property
    def counts(self) -> dict[Split, int]:
        """How many problems each split gets."""
        return {split: getattr(self, split) for split in SPLITS}
