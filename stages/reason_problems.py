"""Problems with a verifier, generated or from data/raw/reasoning, and a tokenizer: -> data/reasoning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm.data import tokenizer
from llm.data.tokenizer import Tokenizer
from llm.reason import families, problems
from llm.reason.problems import SPLITS, Task
from stages.run import only_file, point_to_source, run_stage, stage
from stages.sections.reason_problems import ReasonProblemsConfig


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
