"""Problems with a verifier, generated or from data/raw/reasoning, and a tokenizer: -> data/reasoning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llm.common.params import Problem, at_least_zero
from llm.data import tokenizer
from llm.data.tokenizer import Tokenizer, TokenizerConfig
from llm.reason import families, problems
from llm.reason.families import Addition, Clock
from llm.reason.problems import SPLITS, Split, Style, Task
from llm.reason.verifiers import VerifierName
from stages.run import only_file, point_to_source, run_stage, stage


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
        """Contradictions between these values."""
        yield from at_least_zero(self, *SPLITS)
        if self.family != "file" and not any(self.counts.values()):
            yield SPLITS[0], f"0, and so are {', '.join(SPLITS[1:])}", "give a number of problems"
        yield from TokenizerConfig("problems", self.vocab_size).problems()

    @property
    def counts(self) -> dict[Split, int]:
        """How many problems each split gets."""
        return {split: getattr(self, split) for split in SPLITS}


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    reason_problems: ReasonProblemsConfig


FOLDER = Path("data/reasoning")


def main(params: Params) -> None:
    """Write the four splits, how to check answers, and a tokenizer for models that start from nothing."""
    config = params.reason_problems
    task = Task(config.verifier, config.style)
    with stage("reason_problems", params) as run, point_to_source():
        if config.family == "file":
            run.reads(path := only_file("reasoning"))
            found = problems.read_source(path, task)
        else:
            drawn = families.draws(config.clock if config.family == "clock" else config.addition, params.seed)
            found = problems.by_split(drawn, config.counts, "reason_problems")
        problems.write(folder := run.out(str(FOLDER)), found, task)
        style, every = config.style, [problem for split in SPLITS for problem in found[split]]
        texts = (f"{one.question}\n{style.response(one, one.steps is not None)}" for one in every)
        tokenizer.train(texts, config.vocab_size, folder / "tokenizer", "reason_problems.vocab_size")
        longest = max(len(Tokenizer.load(folder / "tokenizer").encode(one.question)) for one in every)
        questions = {problems.normal(one.question) for one in every}
        run.write_metrics(
            {f"n_{split}": len(found[split]) for split in SPLITS}
            | {
                "n_overlap": len(every) - len(questions),  # questions that are in two splits, or twice in one
                "n_with_steps": sum(one.steps is not None for one in every),
                "longest_question_tokens": longest,
                "chance": problems.frequent([one.answer for one in found["test"] or every]),
            }
        )
        run.say(", ".join(f"{len(found[split]):,} {split}" for split in SPLITS))


if __name__ == "__main__":
    run_stage(main, Params)
