"""Answer the test problems with one model, once and many times: MODEL, data/reasoning -> data/reason_answers/NAME."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm.common import files
from llm.common.seeds import derive
from llm.evaluate.stats import share
from llm.generate.config import greedy
from llm.model import memory, packed_weights
from llm.reason import problems, scaling
from llm.reason.problems import Problem
from llm.reason.refine import refined
from llm.reason.responses import Asker, Opening, Response
from llm.runtime import machine
from llm.runtime.device import RuntimeConfig, set_up_device
from stages.reason_problems import FOLDER
from stages.run import item_of, run_stage, stage
from stages.sections.reason_evaluate import ReasonEvaluateConfig


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    reason_models: dict[str, str]
    reason_evaluate: ReasonEvaluateConfig


def main(params: Params, name: str) -> None:
    """Evaluate the model folder that has this name in `reason_models`, and in its reports."""
    model = item_of(params.reason_models, name, "reason_models")
    with stage(f"reason_evaluate@{name}", params) as run:
        config = params.reason_evaluate
        set_up_device(params.runtime)
        test = problems.read(FOLDER, "test")
        asker = load(Path(model), test, config, params.runtime)
        run.turn_to("compute")
        once = greedy(config.sampling.max_new_tokens)
        seed, at_once = derive(params.seed, "reason_evaluate"), config.problems_at_once
        rows = []
        found: dict[Opening, list[Response]] = {}
        marked = asker.task.style.answer_start.strip()
        openings: list[Opening] = ["free", "direct", "steps"] if marked else ["free", "steps"]
        for opening in openings:
            responses = asker.responses(test, once, seed, opening, batch_size=at_once)
            found[opening] = [one for (one,) in responses]
            rows.append(greedy_row(opening, "greedy", found[opening]))
            run.say(told(rows[-1]))
        if config.refine:
            new, kept = refined(asker, test, found["free"], config.refine, once, seed, at_once)
            rows.append(greedy_row("free", "refined", kept, [*found["free"], *new]))
            run.say(told(rows[-1]))
        sampled: dict[Opening, list[list[Response]]] = {}
        both: list[Opening] = ["free", "steps"]
        for opening in both:
            sampled[opening] = asker.responses(test, config.sampling, seed, opening, config.samples, at_once)
            rows += scaling.curve(opening, sampled[opening], asker.task.same)
            run.say(told(rows[-len(scaling.METHODS)]))
        asker.ranks.leave()
        run.turn_to("save")
        free = found["free"]
        run.write_table("scaling", scaling.COLUMNS, [list(row.values()) for row in rows])
        shown = [
            {
                "question": problem.question,
                "answer": problem.answer,
                "response": one.text,
                "right": one.right,
                "right_with_steps": stepped.right,
                "share_right": sum(sample.right for sample in samples) / len(samples),  # of free samples
            }
            for problem, one, stepped, samples in zip(test, free, found["steps"], sampled["free"], strict=True)
        ]
        files.write_json(run.out(f"data/reason_answers/{name}") / "answers.json", shown)
        run.write_metrics(measures(found, sampled), headline=["accuracy"])


def load(folder: Path, test: Sequence[Problem], config: ReasonEvaluateConfig, runtime: RuntimeConfig) -> Asker:
    """The model of a folder; raises UserError if the memory does not hold the responses to some problems at once."""
    asker = Asker.load(folder, problems.read_task(FOLDER), runtime, config.ask)
    rows, longest = config.problems_at_once * config.samples, max(len(asker.prompt(one)) for one in test)
    size = memory.decoding(asker.model.config, runtime, rows, longest, config.sampling.max_new_tokens)
    where = "params.yaml: reason_evaluate.problems_at_once"
    machine.check_memory(where, "decoding", size, runtime.device, "lower it, or take a smaller model")
    return replace(asker, model=packed_weights.pack_for_decoding(asker.model, runtime, rows))


def greedy_row(opening: str, method: str, found: Sequence[Response], spent: Sequence[Response] = ()) -> dict[str, Any]:
    """A row of scaling.csv for one response to each problem; `spent` are all that were written, if there are more."""
    tokens = sum(one.tokens for one in spent or found) / len(found)
    return scaling.row(opening, method, 1, tokens, sum(one.right for one in found), len(found))


def told(row: Mapping[str, Any]) -> str:
    """A row of scaling.csv in words."""
    what = f"{row['opening']}, {row['method']} of {row['samples']}"
    return f"{what}: accuracy {row['accuracy']:.3f}, {row['tokens']:.0f} tokens for a problem"


def measures(found: dict[Opening, list[Response]], sampled: dict[Opening, list[list[Response]]]) -> dict[str, Any]:
    """The metrics of a model: greedy, with a forced form, and the mean of all samples."""
    free = found["free"]
    every = [one.right for responses in sampled["free"] for one in responses]
    return {
        **share("accuracy", [one.right for one in free]),
        **share("accuracy_with_steps", [one.right for one in found["steps"]]),
        **share("accuracy_direct", [one.right for one in found.get("direct", [])]),
        "sampled_accuracy": sum(every) / len(every),
        "answer_tokens": sum(one.tokens for one in free) / len(free),
        "share_answered": sum(one.answer is not None for one in free) / len(free),
    }


if __name__ == "__main__":
    run_stage(main, Params, ranked=True)
