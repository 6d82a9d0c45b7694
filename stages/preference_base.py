"""Teach a model to say both answers of the pairs: data/preferences -> models/preference_base.

It starts from `finetune_instruct.init_from`, with its prompt.

Preference optimisation moves probability between answers that a model already gives. A model that never says the
preferred answer is not changed by it, although its loss and accuracy become perfect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.common.seeds import derive
from llm.data.instruction_dataset import InstructionDataset
from llm.data.prompts import PromptName, Template, make_frame, to_json
from llm.preference.pairs import PREFERENCES, Pair, entries_of
from llm.preference.splits import read_splits
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train import losses
from llm.train.history import COLUMNS
from llm.train.room import room_for
from llm.weights import model_folder
from stages.recipe import Recipe
from stages.run import from_section, full_keys, run_stage, stage
from stages.sections.preference_base import PreferenceBaseConfig

ALSO = {"init_from": "finetune_instruct.init_from", "prompt": "finetune_instruct.prompt"}


@dataclass(frozen=True)
class Params:
    """The sections and keys of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    preference_base: PreferenceBaseConfig
    init_from: str
    prompt: PromptName | Template


def main(params: Params) -> None:
    """Fine-tune on chosen and rejected answers alike; publish the model with its curve."""
    with stage("preference_base", full_keys(params, ALSO)) as run:
        config, init_from = params.preference_base, Path(params.init_from)
        recipe = Recipe(run, "preference_base", config, params.runtime, params.seed)
        device = set_up_device(params.runtime)
        run.reads(PREFERENCES)
        tokenizer = model_folder.load_tokenizer(init_from)
        shape = model_folder.read_config(init_from)
        frame = make_frame(params.prompt, tokenizer)
        splits = read_splits(tokenizer, shape.context_length, frame)
        names = ("train", "validation")
        both = {name: both_answers(splits[name].pairs, config.chosen_share, params.seed) for name in names}
        train, val = (InstructionDataset(both[one], tokenizer, shape.context_length, True, frame, one) for one in names)
        steps = recipe.steps(train)
        longest = max(train.longest, val.longest)
        targets = max(part.most_targets(config.rows) for part in (train, val))
        recipe.check_room(room_for(config, shape, params.runtime, longest, targets=targets), steps)
        model = model_folder.starting_point(init_from, "pretrained", 0.0, params.seed, tokenizer.vocab_size).to(device)
        run.turn_to("compute")
        loss = losses.next_token_of(params.runtime.fused_loss)
        history = recipe.train(recipe.task(model, loss, train, val, steps), [init_from, PREFERENCES])
        run.turn_to("save")
        model_folder.save_model(model, init_from, run.out("models/preference_base"), to_json(params.prompt))
        run.write_table("loss", COLUMNS, history.table())
        run.write_metrics({**history.losses(config), "tokens_seen": history.kept(config)["tokens_seen"]})


def both_answers(pairs: Sequence[Pair], chosen_share: float, seed: int) -> list[dict[str, Any]]:
    """Return all rejected answers as instructions, and as many of the chosen ones as make up the share."""
    both = [entries_of(pair) for pair in pairs]
    drawn = sorted(range(len(both)), key=lambda number: derive(seed, "both answers", number))
    wanted = set(drawn[: round(len(both) * chosen_share / (1 - chosen_share))])
    return [rejected for _, rejected in both] + [chosen for number, (chosen, _) in enumerate(both) if number in wanted]


if __name__ == "__main__":
    run_stage(main, Params, from_section("preference_base", ALSO), ranked=True)
