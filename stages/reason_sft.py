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
from llm.data.instruction_dataset import InstructionDataset
from llm.data.prompts import make_frame, to_json
from llm.data.tokenizer import Tokenizer
from llm.model.config import ModelConfig, ModelParams
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
    new: bool  # the model starts from random weights
    shape: ModelConfig
    train: InstructionDataset
    val: InstructionDataset

    @classmethod
    def of(
        cls,
        folder: Path,
        new: ModelParams | None,
        config: ReasonSftConfig,
        entries: Sequence[dict[str, str]],
        share_with_steps: float,
    ) -> Course:
        """Learn from `entries`; the solutions of the validation split are for the validation loss.

        The model is that of the folder, or a `new` one with the folder's tokenizer. `share_with_steps` is of the
        validation solutions.

        Raises UserError for solutions that do not fit into the model's context.
        """
        tokenizer = Tokenizer.load(folder)
        shape = new.config(tokenizer.vocab_size) if new else model_folder.read_config(folder)
        frame = make_frame(config.prompt, tokenizer, f"params.yaml: {WHERE}.prompt")
        val = mixture("validation", share_with_steps)
        faults: list[UserError] = []
        parts = []
        for name, some in (("train", entries), ("validation", val)):
            with collect_errors(faults):
                parts.append(lessons(some, tokenizer, frame, shape.context_length, str(FOLDER / f"{name}.jsonl")))
        raise_all(faults)
        return cls(folder, new is not None, shape, *parts)

    def model(self, seed: int) -> GPT:
        """The model of the folder, or a new one."""
        if not self.new:
            return model_folder.load_model(self.folder, Tokenizer.load(self.folder).vocab_size)
        torch.manual_seed(derive(seed, "init"))
        return GPT(self.shape)


def main(params: Params) -> None:
    """Fine-tune on a mixture of solutions with and without steps; publish the model with its curve."""
    with stage("reason_sft", params) as run:
        config = params.reason_sft
        set_up_device(params.runtime)
        folder, share = Path(config.init_from), config.share_with_steps
        new = None if (folder / model_folder.CONFIG).is_file() else params.reason_model
        course = Course.of(folder, new, config, mixture("train", share), share)
        steps = config.epochs * steps_per_epoch(len(course.train), config.batch_size)
        teach(run, course, params, steps, "models/reason_base")


def mixture(split: problems.Split, share_with_steps: float) -> list[dict[str, str]]:
    """The solutions of a split, some of them with steps."""
    return solutions(problems.read(FOLDER, split), problems.read_task(FOLDER).style, share_with_steps)


def teach(
    run: Run,
    course: Course,
    params: Any,
    steps: int,
    output: str,
    loss: Loss | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Train for `steps` updates, and publish the model as `output` with reports in reports/<stage>.

    `params` has `seed`, `runtime` and `reason_sft`, and all else that the saved states depend on. Without a `loss`, it
    is that of the next token. `more` are further metrics.
    """
    runtime: RuntimeConfig = params.runtime
    config: ReasonSftConfig = params.reason_sft
    recipe = Recipe(run, WHERE, config, runtime, params.seed)
    run.reads(FOLDER)
    longest = max(course.train.longest, course.val.longest)
    recipe.check_room(room_for(config, course.shape, runtime, longest), steps)
    model = course.model(params.seed).to(runtime.device)
    run.say(f"{count_parameters(model):,} parameters, {len(course.train):,} solutions, {steps:,} updates")
    run.turn_to("compute")
    loss = loss or losses.next_token_of(runtime.fused_loss)
    history = recipe.train(recipe.task(model, loss, course.train, course.val, steps), [course.folder, FOLDER])
    run.turn_to("save")
    model_folder.save_model(model, course.folder, run.out(output), to_json(config.prompt))
    run.write_table("loss", COLUMNS, history.table())
    metrics = {**history.losses(config), "updates": history.step, "parameters": count_parameters(model)}
    run.write_metrics(metrics | dict(more or {}), headline=["val_loss"])


if __name__ == "__main__":
    run_stage(main, Params, runtime=lambda params: params.runtime)
