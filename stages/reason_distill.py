"""A small student learns from a teacher's responses: `reason_student.teacher`, data/reasoning -> models/reason_NAME."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llm.common import files
from llm.common.errors import DATA, UserError
from llm.common.seeds import derive
from llm.generate.config import DecodingConfig
from llm.model.config import ModelParams
from llm.reason import problems
from llm.reason.lessons import entry, solutions
from llm.reason.responses import Asker, Response
from llm.reason.soft_targets import soft_targets
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train.task import Loss
from llm.weights import model_folder
from stages.reason_problems import FOLDER
from stages.reason_sft import Course, teach
from stages.run import Run, item_of, run_stage, stage
from stages.sections.reason_distill import DistillConfig, StudentConfig
from stages.sections.reason_sft import ReasonSftConfig


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads; of the students, dvc.yaml declares only that of this stage."""

    seed: int
    runtime: RuntimeConfig
    reason_model: ModelParams
    reason_student: StudentConfig
    reason_sft: ReasonSftConfig
    reason_distill: dict[str, DistillConfig]


def main(params: Params, name: str) -> None:
    """Let the teacher solve problems, and teach the student `name` from its solutions."""
    config, teacher = item_of(params.reason_distill, name, "reason_distill"), Path(params.reason_student.teacher)
    params = replace(params, reason_distill={name: config})  # the parameters of this student alone
    with stage(f"reason_distill@{name}", params) as run:
        set_up_device(params.runtime)
        new = params.reason_student.shape(params.reason_model)
        style = problems.read_task(FOLDER).style
        gold = problems.read(FOLDER, "train")[: config.gold]
        traces = solved(teacher, config, params, run) if config.traces else []
        entries = solutions(gold, style, 1.0) + traces
        loss: Loss | None = None
        if config.targets == "soft":
            tokens = model_folder.load_tokenizer(teacher).vocab_size
            loss = soft_targets(model_folder.load_model(teacher, tokens).to(params.runtime.device))
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in traces)
        files.write_text(run.out(f"data/reason_traces/{name}") / "traces.jsonl", lines)
        more = {"n_gold": len(gold), "n_traces": len(traces)}
        teach(run, Course(teacher, new, entries, 1.0, config.updates, f"models/reason_{name}"), params, loss, more)


def solved(teacher: Path, config: DistillConfig, params: Params, run: Run) -> list[dict[str, str]]:
    """The teacher's solutions with steps of problems of the rl split, as entries to learn from.

    Raises UserError if none is left after the filter.
    """
    asker = Asker.load(teacher, problems.read_task(FOLDER), params.runtime)
    asked = problems.read(FOLDER, "rl")[: config.traces]
    decoding = DecodingConfig(config.max_new_tokens, config.temperature, None, None)
    run.turn_to("compute")
    found = asker.responses(asked, decoding, derive(params.seed, "reason_distill"), "steps")
    firsts = [one for (one,) in found]
    kept = [(problem, one) for problem, one in zip(asked, firsts, strict=True) if keeps(one, config.filter)]
    run.say(f"the teacher solved {sum(one.right for one in firsts):,} of {len(asked):,}; {len(kept):,} are learnt from")
    if not kept:
        what = f"{teacher} gave no solution to learn from, of {len(asked):,}"
        raise UserError("params.yaml: reason_student.teacher", what, "take a teacher that solves some problems", DATA)
    return [entry(problem.question, one.text) for problem, one in kept]


def keeps(response: Response, chosen: Literal["none", "verified"]) -> bool:
    """Whether a response is learnt from: it must have ended, and with `verified` be right."""
    return response.right if chosen == "verified" else response.ended


if __name__ == "__main__":
    run_stage(main, Params, ranked=True)
