"""Prefer one answer over another: `finetune_dpo.init_from`, data/preferences -> models/dpo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm.common import files
from llm.data.batches import SequentialBatches
from llm.data.prompts import frame_of, prompt_of
from llm.evaluate import stats
from llm.preference import answers
from llm.preference.loss import MEASURES, Preference, set_reference
from llm.preference.pairs import PREFERENCES
from llm.preference.splits import read_splits
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train.loop import evaluate
from llm.train.ranks import ranks_of
from llm.train.room import room_for
from llm.weights import model_folder
from stages.recipe import Recipe
from stages.run import run_stage, stage
from stages.sections.finetune_dpo import FinetuneDpoConfig

COLUMNS = ("step", "tokens_seen", *(f"{split}_{name}" for name in MEASURES for split in ("train", "val")), "lr")


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    finetune_dpo: FinetuneDpoConfig


def main(params: Params) -> None:
    """Train on pairs; publish the model with its curve, its held-out accuracies, and its answers before and after."""
    with stage("finetune_dpo", params) as run:
        config, init_from = params.finetune_dpo, Path(params.finetune_dpo.init_from)
        recipe = Recipe(run, "finetune_dpo", config, params.runtime, params.seed)
        device = set_up_device(params.runtime)
        run.reads(PREFERENCES)
        tokenizer = model_folder.load_tokenizer(init_from)
        shape = model_folder.read_config(init_from)
        frame = frame_of(init_from, tokenizer)
        splits = read_splits(tokenizer, shape.context_length, frame, config.max_pairs)
        data = {name: split.data for name, split in splits.items()}
        steps = recipe.steps(data["train"])
        longest = max(part.longest for part in data.values())
        targets = max(part.most_targets(config.rows) for part in data.values())
        training = room_for(config, shape, params.runtime, longest, targets=targets)
        recipe.check_room(replace(training, rows=2 * training.rows), steps)  # of each pair
        model = model_folder.starting_point(init_from, "pretrained", 0.0, params.seed, tokenizer.vocab_size).to(device)
        run.turn_to("compute")
        asked = splits["test"].pairs[: config.answers]
        ranks = ranks_of(params.runtime)
        before = answers.answer(model, asked, tokenizer, frame, config.max_new_tokens, ranks)
        run.say(f"{len(asked)} test questions answered; computing the log-probabilities of the reference")
        sizes = config.batch_size, config.micro_batch_size
        loss = Preference(config.beta, config.average, config.label_smoothing, config.anchor)
        for part in data.values():
            set_reference(model, part, loss, params.runtime, *sizes, ranks)
        task = recipe.task(model, loss, data["train"], data["validation"], steps)
        history = recipe.train(task, [init_from, PREFERENCES], ranks=ranks)
        held_out: dict[str, Any] = {}
        for name in (name for name in data if name not in ("train", "validation")):
            batches = SequentialBatches(data[name], config.batch_size)
            means = evaluate(model, loss, batches, params.runtime, config.micro_batch_size, "finetune_dpo")
            held_out |= of_split(name, means, len(data[name]))
        after = answers.answer(model, asked, tokenizer, frame, config.max_new_tokens)
        run.turn_to("save")
        model_folder.save_model(model, init_from, run.out("models/dpo"), prompt_of(init_from, tokenizer))
        run.write_table("curve", COLUMNS, history.table(COLUMNS))
        files.write_json(run.out("reports/finetune_dpo/answers.json"), answers.table(asked, before, after))
        metrics = history.losses(config) | held_out | answers.measures(before, after)
        run.write_metrics(metrics, headline=["test_accuracy", "unseen_accuracy", "chosen_style_after"])


def of_split(name: str, means: Mapping[str, float], pairs: int) -> dict[str, Any]:
    """The measures of a held-out split as metrics, with the interval of the accuracy."""
    hits = round(means["accuracy"] * pairs * 2) / 2  # ties are half a hit
    accuracy = stats.with_interval(f"{name}_accuracy", means["accuracy"], stats.wilson(hits, pairs))
    return {f"{name}_{measure}": mean for measure, mean in means.items()} | accuracy | {f"{name}_accuracy_n": pairs}


if __name__ == "__main__":
    run_stage(main, Params, ranked=True)
