"""Turn a GPT into a spam classifier: `finetune_spam.init_from`, data/spam -> models/spam, reports/finetune_spam."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from llm import checkpoint, classifier, files, leakage, lora, losses, prefix, preflight, resume, runtime, stats
from llm.batches import InOrder, Shuffled, derive, steps_per_epoch
from llm.classifier import Classifier, FinetuneSpamConfig
from llm.history import COLUMNS
from llm.model import ModelConfig, count_parameters
from llm.prefix import FrozenStates
from llm.runtime import RuntimeConfig
from llm.spam import LABELS, SPLITS, read_split
from llm.spam_dataset import SpamDataset
from llm.train import fit, looks
from stages import Run, run_stage, stage

SPAM = Path("data/spam")
ACCURACY_COLUMNS = ("step", "train_accuracy", "val_accuracy")


@dataclass(frozen=True)
class Params:
    """What this stage reads."""

    seed: int
    runtime: RuntimeConfig
    finetune_spam: FinetuneSpamConfig


def main(params: Params) -> None:
    """Fine-tune, predict every message of the three splits, publish the classifier."""
    with stage("finetune_spam", params) as run:
        config = params.finetune_spam
        device = runtime.setup(params.runtime)
        run.reads(SPAM)
        init_from = Path(config.init_from)
        shape = replace(checkpoint.read_config(init_from), dropout=config.dropout, dropout_attention=None)
        data = read_datasets(shape.context_length, init_from, config)
        steps = config.epochs * steps_per_epoch(len(data["train"]), config.batch_size)
        check_room(shape, data, params, steps, run)
        gpt = checkpoint.starting_point(init_from, config.weights, config.dropout, params.seed)
        torch.manual_seed(derive(params.seed, "head"))
        model = Classifier(gpt, len(LABELS), config.position, data["train"].width, config.causal).to(device)
        classifier.freeze(model, config.trainable)
        if config.lora:
            lora.add_lora(model, config.lora, derive(params.seed, "lora"))
        trainable = count_parameters(model, trainable_only=True)
        run.say(f"{trainable:,} of {count_parameters(model):,} parameters train")
        run.turn_to("compute")
        trained, seen = above_frozen_blocks(model, data, config, params.runtime, run)
        with resume.states(run.states, params, [init_from, SPAM], config.save_every, run.say) as states:
            history = fit(
                trained,
                losses.classification,
                Shuffled(seen["train"], config.batch_size, steps, params.seed, "finetune_spam.batch_size"),
                looks(seen["train"], seen["validation"], config),
                config,
                params.runtime,
                params.seed,
                run,
                section="finetune_spam",
                states=states,
            )
        run.say(history.ending(config))
        adapter = lora.merge_lora(model)
        metrics, predictions = judge_splits(trained, seen, config, params.runtime)
        run.turn_to("save")
        metrics |= unleaked(predictions)
        checkpoint.save_classifier(model, LABELS, init_from, folder := run.out("models/spam"))
        if config.lora:
            checkpoint.save_adapter(adapter, config.lora, config.init_from, folder)
        files.write_csv(run.out("reports/finetune_spam/loss.csv"), COLUMNS, history.table())
        table = history.table(ACCURACY_COLUMNS)
        files.write_csv(run.out("reports/finetune_spam/accuracy.csv"), ACCURACY_COLUMNS, table)
        header = ["split", "row", "actual", "predicted", "spam_probability"]
        files.write_csv(run.out("reports/finetune_spam/predictions.csv"), header, predictions)
        metrics |= {
            **history.losses(config),
            "trainable_parameters": trainable,
        }
        run.write_metrics(metrics, headline=["test_accuracy"])


def check_room(shape: ModelConfig, data: Mapping[str, SpamDataset], params: Params, steps: int, run: Run) -> None:
    """Refuse what does not fit into memory or on the disk, where the states of frozen blocks go too."""
    config = params.finetune_spam
    rows = config.micro_batch_size or config.batch_size
    longest = max(part.width or min(part.longest, shape.context_length) for part in data.values())
    blocks = classifier.UPPER_BLOCKS.get(config.trainable)
    size = (shape, params.runtime, rows, longest, config.batch_size > rows)
    training = preflight.Training(*size, blocks, config.lora, len(LABELS), config.keep == "best")
    cached = 0
    if prefix.frozen_blocks(config, shape.n_layer):
        states = sum(sum(prefix.kept_lengths(p, config.position, shape.context_length)) for p in data.values())
        cached = prefix.STATE_BYTES * states * shape.n_embd
    preflight.check_training("finetune_spam", training, run.work, steps, config.save_every, cached)


def read_datasets(limit: int, init_from: Path, config: FinetuneSpamConfig) -> dict[str, SpamDataset]:
    """The three splits as token ids, padded as `padding` says."""
    tokenizer = checkpoint.load_tokenizer(init_from)
    data = {split: SpamDataset(*read_split(SPAM / f"{split}.csv"), tokenizer, limit) for split in SPLITS}
    width = {"longest": data["train"].longest, "context": limit, "batch": None}[config.padding]
    for dataset in data.values():
        dataset.width = width
    return data


def above_frozen_blocks(
    model: Classifier, data: dict[str, SpamDataset], config: FinetuneSpamConfig, precision: RuntimeConfig, run: Run
) -> tuple[nn.Module, Mapping[str, SpamDataset | FrozenStates]]:
    """What has to run in every epoch, and on what: the whole model on ids, or its upper blocks on states."""
    frozen = prefix.frozen_blocks(config, model.gpt_config.n_layer)
    if not frozen:
        return model, data
    run.say(f"the lower {frozen} of {model.gpt_config.n_layer} blocks do not train: computing their states once")
    states = {split: prefix.compute(model, frozen, part, precision, run.work) for split, part in data.items()}
    return prefix.Tail(model, frozen), states


def judge_splits(
    model: nn.Module,
    data: Mapping[str, SpamDataset | FrozenStates],
    config: FinetuneSpamConfig,
    precision: RuntimeConfig,
) -> tuple[dict[str, float | int | None], list[list[object]]]:
    """Accuracy with its interval and confusion counts of every split, and one row a message."""
    metrics: dict[str, float | int | None] = {}
    rows: list[list[object]] = []
    for split, dataset in data.items():
        batches = InOrder(dataset, config.batch_size)
        probabilities = classifier.predict(model, batches, precision, config.micro_batch_size).softmax(dim=-1)
        predicted = probabilities.argmax(dim=-1).tolist()
        right = [p == a for p, a in zip(predicted, dataset.labels, strict=True)]
        metrics |= stats.share(f"{split}_accuracy", right)
        for actual, said in [(a, p) for a in range(len(LABELS)) for p in range(len(LABELS))]:
            hits = sum(pair == (actual, said) for pair in zip(dataset.labels, predicted, strict=True))
            metrics[f"{split}_{LABELS[actual]}_as_{LABELS[said]}"] = hits
        for row, (actual, said, spam) in enumerate(
            zip(dataset.labels, predicted, probabilities[:, 1].tolist(), strict=True)
        ):
            rows.append([split, row, LABELS[actual], LABELS[said], spam])
    return metrics, rows


def unleaked(predictions: list[list[object]]) -> dict[str, float | int | None]:
    """Accuracy on the held-out messages that do not stand in the training split, exactly or nearly."""
    metrics: dict[str, float | int | None] = {}
    texts = {split: read_split(SPAM / f"{split}.csv")[1] for split in SPLITS}
    for split in SPLITS[1:]:
        right = [actual == said for of, _, actual, said, _ in predictions if of == split]
        found = leakage.leaks(texts[split], texts["train"])
        metrics |= stats.share(f"{split}_accuracy_without_exact", leakage.without(right, found, "exact"))
        metrics |= stats.share(f"{split}_accuracy_without_near", leakage.without(right, found, "exact", "near"))
    return metrics


if __name__ == "__main__":
    run_stage(main, Params)
