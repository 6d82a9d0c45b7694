"""Turn a GPT into a classifier: `finetune_spam.init_from`, data/spam -> models/spam, reports/finetune_spam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm.common.seeds import derive
from llm.data.class_splits import SPLITS, read_labels, read_split
from llm.data.source import Source
from llm.data.spam_dataset import SpamDataset
from llm.evaluate import accuracy, class_metrics
from llm.model import classifier, lora
from llm.model.classifier import Classifier
from llm.model.config import ModelConfig
from llm.model.gpt import count_parameters
from llm.model.memory import Training
from llm.model.trainable import UPPER_BLOCKS
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train import frozen_blocks, losses
from llm.train.frozen_blocks import FrozenStates
from llm.train.history import COLUMNS
from llm.train.room import room_for
from llm.weights import classifier_folder, model_card, model_folder
from llm.weights.model_card import Card
from stages.recipe import Recipe
from stages.run import Run, from_section, full_keys, run_stage, stage
from stages.sections.finetune_spam import FinetuneSpamConfig

SPAM = Path("data/spam")
ALSO = {"spam": "download.spam"}
ACCURACY_COLUMNS = ("step", "train_accuracy", "val_accuracy")


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    finetune_spam: FinetuneSpamConfig
    spam: Source  # for the model card


def main(params: Params) -> None:
    """Fine-tune, predict every message of the three splits, publish the classifier."""
    with stage("finetune_spam", full_keys(params, ALSO)) as run:
        config = params.finetune_spam
        recipe = Recipe(run, "finetune_spam", config, params.runtime, params.seed)
        device = set_up_device(params.runtime)
        run.reads(SPAM)
        init_from = Path(config.init_from)
        shape = model_folder.read_config(init_from)
        labels = read_labels(SPAM)
        data = read_datasets(shape.context_length, init_from, config, len(labels))
        cut = {split: part.cut for split, part in data.items()}
        if any(cut.values()):
            counts = ", ".join(f"{count:,} of {len(data[split]):,} ({split})" for split, count in cut.items())
            most = data["train"].width or shape.context_length
            run.say(f"messages of more than {most} tokens, of which only the start is read: {counts}")
        steps = recipe.steps(data["train"])
        check_room(recipe, shape, data, config, steps, len(labels))
        gpt = model_folder.starting_point(init_from, config.weights, config.dropout, params.seed)
        torch.manual_seed(derive(params.seed, "head"))
        model = Classifier(gpt, len(labels), config.position, data["train"].width, config.causal).to(device)
        classifier.freeze(model, config.trainable)
        if config.lora:
            lora.add_lora(model, config.lora, derive(params.seed, "lora"))
        trainable = count_parameters(model, trainable_only=True)
        run.say(f"{trainable:,} of {count_parameters(model):,} parameters train")
        run.turn_to("compute")
        trained, seen = above_frozen_blocks(model, data, config, params.runtime, run)
        task = recipe.task(trained, losses.classification, seen["train"], seen["validation"], steps)
        history = recipe.train(task, [init_from, SPAM])
        adapter = lora.merge_lora(model)
        measured = accuracy.measure_splits(
            trained, seen, labels, params.runtime, config.batch_size, config.micro_batch_size
        )
        run.turn_to("save")
        metrics = measured.metrics | accuracy.accuracy_without_leaks(measured.predictions, SPAM, len(labels))
        classifier_folder.save_classifier(model, labels, init_from, folder := run.out("models/spam"))
        if config.lora:
            model_folder.save_adapter(adapter, config.lora, config.init_from, folder)
        run.write_table("loss", COLUMNS, history.table())
        run.write_table("accuracy", ACCURACY_COLUMNS, history.table(ACCURACY_COLUMNS))
        run.write_table("predictions", accuracy.prediction_columns(labels), measured.predictions)
        run.write_table("calibration", ["split", *class_metrics.BIN_COLUMNS], measured.calibration)
        metrics |= history.losses(config) | {"trainable_parameters": trainable}
        metrics |= {f"{split}_cut": count for split, count in cut.items()}
        run.write_metrics(metrics, headline=["test_accuracy", "test_macro_f1"])
        model_card.write(folder, card(params, run, labels, metrics), model_card.read(init_from))


def card(params: Params, run: Run, labels: list[str], metrics: Mapping[str, Any]) -> Card:
    """The model card of the classifier; its metrics are those of the test split."""
    config = params.finetune_spam
    tested = {k: v for k, v in metrics.items() if k.startswith("test_") and not k.endswith("_n")}
    exact = metrics["test_accuracy_n"] - metrics["test_accuracy_without_exact_n"]
    near = metrics["test_accuracy_n"] - metrics["test_accuracy_without_near_n"]
    others = []
    if config.position != "last_token" or not config.causal:
        how = f"position {config.position}" + ("" if config.causal else ", without the causal mask")
        others.append(
            f"transformers opens this folder, but reads the last token with the causal mask. This head was trained with"
            f" {how}. So the labels that transformers gives differ, and the metrics below do not hold for them."
        )
    return Card(
        "spam",
        "text-classification",
        f"A classifier of messages into {', '.join(labels)}, fine-tuned from {config.init_from}"
        f" ({metrics['trainable_parameters']:,} parameters trained).",
        run.inputs(Path(config.init_from)),
        {"seed": params.seed, "runtime": params.runtime, "finetune_spam": config},
        tested,
        "the test split of data/spam",
        params.spam,
        (
            f"Of its {metrics['test_accuracy_n']} test messages, {exact} are exact and {near} near or exact copies of"
            " training messages.",
            *others,
        ),
    )


def room(config: FinetuneSpamConfig, shape: ModelConfig, runtime: RuntimeConfig, length: int, classes: int) -> Training:
    """What decides about the memory of fine-tuning a model of this shape, on messages of up to `length` tokens."""
    shape = replace(shape, dropout=config.dropout, dropout_attention=None)
    blocks = UPPER_BLOCKS.get(config.trainable)
    return room_for(config, shape, runtime, length, trained_blocks=blocks, lora=config.lora, classes=classes)


def check_room(
    recipe: Recipe,
    shape: ModelConfig,
    data: Mapping[str, SpamDataset],
    config: FinetuneSpamConfig,
    steps: int,
    classes: int,
) -> None:
    """Refuse a training that does not fit into memory or on the disk, which also holds the frozen blocks' states."""
    longest = max(part.width or min(part.longest, shape.context_length) for part in data.values())
    cached = 0
    if config.frozen_blocks(shape.n_layer):
        states = sum(sum(frozen_blocks.kept_lengths(p, config.position, shape.context_length)) for p in data.values())
        cached = recipe.runtime.ranks * frozen_blocks.STATE_BYTES * states * shape.n_embd  # each rank has its own
    recipe.check_room(room(config, shape, recipe.runtime, longest, classes), steps, cached)


def read_datasets(limit: int, init_from: Path, config: FinetuneSpamConfig, n_classes: int) -> dict[str, SpamDataset]:
    """The three splits as token ids, padded according to `padding`."""
    tokenizer = model_folder.load_tokenizer(init_from)
    data = {split: SpamDataset(*read_split(SPAM / f"{split}.csv", n_classes), tokenizer, limit) for split in SPLITS}
    width = {"longest": data["train"].longest, "context": limit, "batch": None}[config.padding]
    for dataset in data.values():
        dataset.width = width
    return data


def above_frozen_blocks(
    model: Classifier, data: dict[str, SpamDataset], config: FinetuneSpamConfig, precision: RuntimeConfig, run: Run
) -> tuple[nn.Module, Mapping[str, SpamDataset | FrozenStates]]:
    """The module that trains and its data: the whole model on ids, or its upper blocks on saved states."""
    frozen = config.frozen_blocks(model.gpt_config.n_layer)
    if not frozen:
        return model, data
    run.say(f"the lower {frozen} of {model.gpt_config.n_layer} blocks do not train: computing their states once")
    states = {split: frozen_blocks.compute(model, frozen, part, precision, run.work) for split, part in data.items()}
    return frozen_blocks.UpperBlocks(model, frozen), states


if __name__ == "__main__":
    run_stage(main, Params, from_section("finetune_spam", ALSO), ranked=True)
