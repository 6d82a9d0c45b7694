"""Teach a model to answer problems: `reason_sft.init_from`, data/reasoning -> models/reason_base.

Some solutions have written steps and the others do not, as in texts of the web. So the model knows both forms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llm.common.errors import UserError, collect_errors, raise_all
from llm.common.seeds import derive
from llm.data.batches import steps_per_epoch
from llm.data.prompts import make_frame, to_json
from llm.data.tokenizer import Tokenizer
from llm.model.config import ModelParams
from llm.model.gpt import GPT, count_parameters
from llm.reason import problems
from llm.reason.lessons import lessons, solutions
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train import losses
from llm.train.history import COLUMNS
from llm.train.room import room_for
from llm.train.task import Loss
from llm.weights import model_folder
from stages.reason_problems import FOLDER
from stages.recipe import Recipe
from stages.run import Run, run_stage, stage
from stages.sections.reason_sft import ReasonSftConfig

WHERE = "reason_sft"  # the section that all models of these problems are taught by


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    reason_model: ModelParams
    reason_sft: ReasonSftConfig


@dataclass(frozen=True)
class Course:
    """A model to teach, with the solutions that it learns from."""

    folder: Path  # of the tokenizer, and of the model if it is not new
    new: ModelParams | None  # the settings of a new model, which starts from random weights
    entries: Sequence[dict[str, str]]
    share_with_steps: float  # of the validation solutions
    steps: int  # updates
    output: str  # the model folder


def main(params: Params) -> None:
    """Fine-tune on a mixture of solutions with and without steps; publish the model with its curve."""
    with stage("reason_sft", params) as run:
        config = params.reason_sft
        set_up_device(params.runtime)
        folder, share = Path(config.init_from), config.share_with_steps
        new = None if (folder / model_folder.CONFIG).is_file() else params.reason_model
        entries = mixture("train", share)
        steps = config.epochs * steps_per_epoch(len(entries), config.batch_size)
        teach(run, Course(folder, new, entries, share, steps, "models/reason_base"), params)


def mixture(split: problems.Split, share_with_steps: float) -> list[dict[str, str]]:
    """The solutions of a split, some of them with steps."""
    return solutions(problems.read(FOLDER, split), problems.read_task(FOLDER).style, share_with_steps)


def teach(
    run: Run, course: Course, params: Any, loss: Loss | None = None, more: Mapping[str, Any] | None = None
) -> None:
    """Train, and publish the model with reports in reports/<stage>.

    `params` has `seed`, `runtime` and `reason_sft`, as in `Params`. Without a `loss`, it is that of the next token.
    `more` are further metrics. Raises UserError for solutions that do not fit into the model's context.
    """
    runtime: RuntimeConfig = params.runtime
    config: ReasonSftConfig = params.reason_sft
    recipe = Recipe(run, WHERE, config, runtime, params.seed)
    run.reads(FOLDER)
    tokenizer = Tokenizer.load(course.folder)
    shape = course.new.config(tokenizer.vocab_size) if course.new else model_folder.read_config(course.folder)
    frame = make_frame(config.prompt, tokenizer, f"params.yaml: {WHERE}.prompt")
    faults: list[UserError] = []
    parts = []
    for name, entries in (("train", course.entries), ("validation", mixture("validation", course.share_with_steps))):
        with collect_errors(faults):
            parts.append(lessons(entries, tokenizer, frame, shape.context_length, str(FOLDER / f"{name}.jsonl")))
    raise_all(faults)
    train, val = parts
    recipe.check_room(room_for(config, shape, runtime, max(train.longest, val.longest)), course.steps)
    torch.manual_seed(derive(params.seed, "init"))
    model = GPT(shape) if course.new else model_folder.load_model(course.folder, tokenizer.vocab_size)
    model.to(runtime.device)
    run.say(f"{count_parameters(model):,} parameters, {len(train):,} solutions, {course.steps:,} updates")
    run.turn_to("compute")
    task = recipe.task(model, loss or losses.next_token_of(runtime.fused_loss), train, val, course.steps)
    history = recipe.train(task, [course.folder, FOLDER])
    run.turn_to("save")
    model_folder.save_model(model, course.folder, run.out(course.output), to_json(config.prompt))
    run.write_table("loss", COLUMNS, history.table())
    metrics = {**history.losses(config), "updates": history.step, "parameters": count_parameters(model)}
    run.write_metrics(metrics | dict(more or {}), headline=["val_loss"])


if __name__ == "__main__":
    run_stage(main, Params, ranked=True)
