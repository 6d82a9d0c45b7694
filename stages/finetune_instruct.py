"""Teach a GPT to follow instructions: `finetune_instruct.init_from`, data/instructions -> models/instruct."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm.common.errors import UserError, collect_errors, raise_all
from llm.common.seeds import derive
from llm.data.batches import Buckets
from llm.data.instruction_dataset import InstructionDataset
from llm.data.instructions import read_entries
from llm.data.prompts import make_frame, to_json
from llm.data.source import Source
from llm.model import lora
from llm.model.config import ModelConfig
from llm.model.gpt import count_parameters
from llm.model.memory import Training
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train import losses
from llm.train.history import COLUMNS
from llm.train.room import room_for
from llm.weights import families, model_card, model_folder
from llm.weights.model_card import Card
from stages.recipe import Recipe
from stages.run import Run, from_section, full_keys, run_stage, stage
from stages.sections.finetune_instruct import FinetuneInstructConfig

INSTRUCTIONS = Path("data/instructions")
ALSO = {"instructions": "download.instructions"}


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    finetune_instruct: FinetuneInstructConfig
    instructions: Source  # for the model card


def main(params: Params) -> None:
    """Fine-tune on prompts with answers; publish the model with its curve."""
    with stage("finetune_instruct", full_keys(params, ALSO)) as run:
        config = params.finetune_instruct
        recipe = Recipe(run, "finetune_instruct", config, params.runtime, params.seed)
        device = set_up_device(params.runtime)
        run.reads(INSTRUCTIONS)
        init_from = Path(config.init_from)
        shape = model_folder.read_config(init_from)
        tokenizer = model_folder.load_tokenizer(init_from)
        limit, mask_prompt = shape.context_length, config.mask_prompt
        frame = make_frame(config.prompt, tokenizer)
        problems: list[UserError] = []
        parts = []
        for path in (INSTRUCTIONS / "train.json", INSTRUCTIONS / "validation.json"):
            with collect_errors(problems):
                parts.append(InstructionDataset(read_entries(path), tokenizer, limit, mask_prompt, frame, str(path)))
        raise_all(problems)
        train, val = parts
        if n_cut := train.n_cut + val.n_cut:
            run.say(f"{n_cut:,} of {len(train) + len(val):,} entries are cut to the context of {limit} tokens")
        steps = recipe.steps(train)
        longest = max(train.longest, val.longest)
        targets = max(part.most_targets(config.rows) for part in parts)
        recipe.check_room(room(config, shape, params.runtime, longest, targets), steps)
        start = (init_from, config.weights, config.dropout, params.seed, tokenizer.vocab_size)
        model = model_folder.starting_point(*start)
        if config.lora:
            families.untie_head(model)  # LoRA's path of the head does not belong to the embedding
            lora.add_lora(model, config.lora, derive(params.seed, "lora"))
        model.to(device)
        trainable = count_parameters(model, trainable_only=True)
        run.say(f"{trainable:,} of {count_parameters(model):,} parameters train, {len(train)} entries on {device}")
        run.turn_to("compute")
        buckets = Buckets(train.lengths, config.bucket_batches) if config.bucket_batches else None
        loss = losses.next_token_of(params.runtime.fused_loss)
        history = recipe.train(recipe.task(model, loss, train, val, steps, buckets), [init_from, INSTRUCTIONS])
        run.turn_to("save")
        adapter = lora.merge_lora(model)
        model_folder.save_model(model, init_from, folder := run.out("models/instruct"), to_json(config.prompt))
        if config.lora:
            model_folder.save_adapter(adapter, config.lora, config.init_from, folder)
        run.write_table("loss", COLUMNS, history.table())
        metrics = {
            **history.losses(config),
            "tokens_seen": history.kept(config)["tokens_seen"],
            "trainable_parameters": trainable,
            "n_cut": n_cut,  # entries whose last answer is cut to the context
        }
        run.write_metrics(metrics, headline=["val_loss"])
        model_card.write(folder, card(params, run, metrics), model_card.read(init_from))


def room(
    config: FinetuneInstructConfig, shape: ModelConfig, runtime: RuntimeConfig, length: int, targets: int | None = None
) -> Training:
    """What decides about the memory of fine-tuning a model of this shape, on rows of up to `length` tokens.

    In the rows of a forward pass, at most so many `targets` count; None: all.
    """
    tied = shape.tie_head and not config.lora
    shape = replace(shape, dropout=config.dropout, dropout_attention=None, tie_head=tied)
    return room_for(config, shape, runtime, length, lora=config.lora, targets=targets)


def card(params: Params, run: Run, metrics: Mapping[str, Any]) -> Card:
    """The model card of the model; its answers are scored later, by the stages after this one."""
    config = params.finetune_instruct
    return Card(
        "instruct",
        "text-generation",
        f"A language model that answers instructions, fine-tuned from {config.init_from}"
        f" ({metrics['trainable_parameters']:,} parameters trained).",
        run.inputs(Path(config.init_from)),
        {"seed": params.seed, "runtime": params.runtime, "finetune_instruct": config},
        {name: value for name, value in metrics.items() if "val_" in name},
        "the validation split of data/instructions",
        params.instructions,
        ("Its answers are often wrong, however fluent. reports/evaluate_with_judge has their scores.",),
    )


if __name__ == "__main__":
    run_stage(main, Params, from_section("finetune_instruct", ALSO), ranked=True)
