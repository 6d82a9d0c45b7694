"""Reinforcement learning with verifiable rewards (GRPO): `reason_rl.init_from`, data/reasoning -> models/reason_rl.

The model writes several answers to each problem. Those that are right become more likely, the others less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from llm.common import files
from llm.common.errors import USAGE, UserError
from llm.common.seeds import derive
from llm.data.prompts import frame_of
from llm.evaluate.stats import wilson, with_interval
from llm.generate.config import greedy
from llm.model.gpt import GPT, count_parameters
from llm.reason import problems
from llm.reason.grpo import GrpoLoss
from llm.reason.guards import Guards, probe
from llm.reason.responses import Asker
from llm.reason.rollouts import Rollouts
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train.callbacks import Measures, Samples
from llm.train.history import SAMPLE_COLUMNS
from llm.train.ranks import ranks_of
from llm.train.room import room_for
from llm.train.task import Task, Training
from llm.weights import model_folder
from stages.reason_problems import FOLDER
from stages.recipe import Recipe
from stages.run import run_stage, stage
from stages.sections.reason_rl import ReasonRlConfig

MEASURED = ("reward", "dead", "all_right", "all_wrong", "length", "ended", "entropy", "kl", "clipped", "norm")
COLUMNS = ("step", *MEASURED, "val_accuracy", "val_sampled")
SHOWN = 3  # validation problems whose answers are in the report


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    reason_rl: ReasonRlConfig


@dataclass
class Validation:
    """Accuracy on the validation problems; the loss to minimize is the share of wrong sampled answers.

    The ranks of `asker` share the problems.
    """

    asker: Asker
    problems: Sequence[problems.Problem]
    config: ReasonRlConfig
    seed: int
    shown: str = ""  # the first greedy answers of the last evaluation

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`accuracy` is greedy, `sampled` that of samples."""
        assert isinstance(model, GPT)
        asker, config, seed = replace(self.asker, model=model), self.config, derive(self.seed, "validation")
        once = [one for (one,) in asker.responses(self.problems, greedy(config.max_new_tokens), seed)]
        sampled = asker.responses(self.problems, config.decoding, seed, copies=config.val_samples)
        share_right = sum(one.right for each in sampled for one in each) / (len(sampled) * config.val_samples)
        pairs = zip(self.problems[:SHOWN], once[:SHOWN], strict=True)
        self.shown = "\n".join(f"{problem.question}: {one.text}" for problem, one in pairs)
        accuracy = sum(one.right for one in once) / len(once)
        return {"loss": 1 - share_right, "accuracy": accuracy, "sampled": share_right}


def main(params: Params) -> None:
    """Train with rewards; publish the model with its curve."""
    with stage("reason_rl", params) as run:
        config, device = params.reason_rl, set_up_device(params.runtime)
        run.reads(FOLDER)
        folder, training = Path(config.init_from), config.training
        recipe = Recipe(run, "reason_rl", training, params.runtime, params.seed)
        shape, tokenizer = model_folder.read_config(folder), model_folder.load_tokenizer(folder)
        updates = config.steps * config.updates
        recipe.check_room(room_for(training, shape, params.runtime, shape.context_length), updates)
        start = (folder, "pretrained", 0.0, params.seed, tokenizer.vocab_size)
        model = model_folder.starting_point(*start).to(device)
        reference = model_folder.starting_point(*start).to(device).eval() if config.kl else None
        ranks = ranks_of(params.runtime)
        asker = Asker(model, tokenizer, frame_of(folder, tokenizer), problems.read_task(FOLDER), config.ask, ranks)
        asked, val = problems.read(FOLDER, "rl"), problems.read(FOLDER, "validation")
        check_context(asker, [*asked, *val], config.max_new_tokens, shape.context_length)
        runtime, rows_at_once = params.runtime, config.micro_batch_size
        rollouts = Rollouts(asker, asked, config, updates, params.seed, runtime, reference, rows_at_once)
        run.say(
            f"{count_parameters(model):,} parameters, {config.problems_at_once} problems x {config.group} answers a "
            "step. The advantages of a group add up to 0, so the loss is near 0: the reward tells more"
        )
        if config.updates > 1 and config.clip is None:
            run.say(
                "clip is null with several updates from one set of answers: nothing keeps the model from collapsing"
            )
        run.turn_to("compute")
        loss, validation = GrpoLoss(config), Validation(asker, val, config, params.seed)
        chance = problems.frequent([problem.answer for problem in asked])

        def measure(training: Training) -> dict[str, float]:
            return {**rollouts.measures, **loss.measures(ranks), "norm": training.gradient_norm}

        n_validation = len(val) * config.val_samples
        callbacks = [
            Measures(measure, lambda: probe(rollouts)),
            Guards(config, config.max_dead, chance, n_validation, run.say, rollouts),
            Samples(lambda: validation.shown),
        ]
        task = Task(model, loss, rollouts, {"val": validation}, "reason_rl")
        history = recipe.train(task, [folder, FOLDER], callbacks, ranks, together=config.updates)
        run.turn_to("save")
        prompt = files.read_json(folder / model_folder.CONFIG).get("prompt")
        model_folder.save_model(model, folder, run.out("models/reason_rl"), prompt)
        run.write_table("curve", COLUMNS, [[row.get(name, "") for name in COLUMNS] for row in history.rows])
        run.write_table("samples", SAMPLE_COLUMNS, history.samples)
        first, kept = history.rows[0], history.kept(training)
        run.write_metrics(
            {
                **_with_interval("val_sampled", kept, len(val)),  # answers to one problem do not widen the sample
                **_with_interval("val_accuracy", kept, len(val)),
                **{f"base_{name}": first[name] for name in ("val_sampled", "val_accuracy")},
                "gain": kept["val_sampled"] - first["val_sampled"],
                "kept_step": kept["step"],
                "updates": history.step,
                "dead_groups": mean_of_updates("dead", history.rows),
            },
            headline=["val_sampled"],
        )


def mean_of_updates(measure: str, rows: Sequence[Mapping[str, Any]]) -> float:
    """The mean over all updates. A row has the mean over those since the row before, perhaps fewer in the last one."""
    parts = [(int(after["step"] - before["step"]), float(after[measure])) for before, after in pairwise(rows)]
    return sum(updates * value for updates, value in parts) / sum(updates for updates, _ in parts)


def _with_interval(name: str, row: dict[str, Any], n: int) -> dict[str, Any]:
    return with_interval(name, row[name], wilson(row[name] * n, n)) | {f"{name}_n": n}


def check_context(asker: Asker, some: Sequence[problems.Problem], new: int, context: int) -> None:
    """Raise UserError if a prompt and its answer may be longer than the context of the model."""
    longest = max(len(asker.prompt(problem)) for problem in some)
    if longest + new > context:
        what = f"{new} and a prompt of {longest} tokens exceed the model's context of {context}"
        fix = f"set it to at most {context - longest}" if longest < context else "take shorter problems"
        raise UserError("params.yaml: reason_rl.max_new_tokens", what, fix, USAGE)


if __name__ == "__main__":
    run_stage(main, Params, ranked=True)
