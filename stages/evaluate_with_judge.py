"""Score the answers from 0 to 100: reports/respond/responses.json -> data/verdicts, reports/evaluate_with_judge.

Some questions are also in the training split of data/instructions. The mean is given with and without them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from llm.common import files
from llm.data import leakage
from llm.data.instructions import read_entries
from llm.data.leakage import Leak
from llm.data.prompts import all_questions, format_prompt, question
from llm.evaluate.judge import judge, read_responses, require_coverage, summarize
from llm.evaluate.judge_config import JudgeConfig
from stages.run import WORK, run_stage, stage

RESPONSES = Path("reports/respond/responses.json")
TRAIN = Path("data/instructions/train.json")
UNLEAKED: dict[str, tuple[Leak, ...]] = {"without_exact": ("exact",), "without_near": ("exact", "near")}
JOURNAL = WORK / "evaluate_with_judge" / "journal.jsonl"  # after a failure, only the remaining answers are sent


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    judge: JudgeConfig


def main(params: Params) -> None:
    """Score every answer, and count those without a score."""
    with stage("evaluate_with_judge", params) as run:
        responses = read_responses(RESPONSES)
        run.turn_to("compute")
        verdicts = judge(responses, params.judge, format_prompt, JOURNAL, run.each)
        run.turn_to("save")
        summary = summarize(verdicts)
        require_coverage(verdicts, params.judge)
        records = [asdict(verdict) for verdict in verdicts]
        files.write_json(run.out("data/verdicts") / "verdicts.json", records)
        scores = [
            {key: record[key] for key in ("index", "status", "score", "flags")} | response
            for record, response in zip(records, responses, strict=True)
        ]
        files.write_json(run.out("reports/evaluate_with_judge/scores.json"), scores)
        train = [text for entry in read_entries(TRAIN) for text in all_questions(entry)]
        found = leakage.leaks([question(response) for response in responses], train)
        for name, kinds in UNLEAKED.items():
            rest = summarize(leakage.without(verdicts, found, *kinds))
            summary |= {f"{key}_{name}": rest[key] for key in ("score_mean", "score_ci95_low", "score_ci95_high")}
            summary[f"n_items_{name}"] = rest["n_items"]
        names = {key: getattr(params.judge, key) for key in ("backend", "prompt", "reply")}
        run.write_metrics(names | summary, headline=["score_mean"])


if __name__ == "__main__":
    run_stage(main, Params)
