"""What a stage has to compute: floating-point operations, and the training that decides its memory.

Counted are the matrix products and the attention scores, 2 operations for each multiplication; a backward pass costs
twice its forward pass. All the rest is in the speed, which is measured over the same count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.common import files
from llm.common.errors import UserError
from llm.data.batches import steps_per_epoch
from llm.model import memory
from llm.model.config import ModelConfig
from llm.model.memory import Training
from llm.model.trainable import UPPER_BLOCKS
from llm.train.config import TrainConfig
from llm.weights import model_folder
from stages import finetune_instruct, finetune_spam, pretrain
from stages.schema import AllParams

COUNTS = Path("reports/tokenize")
PADDED = 0.75  # mean length of a batch that is padded to its longest row, as a share of the longest of all
FORWARD, BOTH = 1, 3  # passes: a backward pass counts as two
DECODING = 0.1  # speed of decoding row by row, as a share of that of training
BASE = 250 << 20  # bytes of a process that has loaded torch but no model


@dataclass(frozen=True)
class Work:
    """The work of a stage."""

    operations: float
    memory: int  # bytes at the peak
    training: Training | None  # None: it does not train


def work(stage: str, everything: AllParams) -> Work | None:
    """The work of a stage, from params.yaml and the counts in reports/tokenize; None if they do not tell."""
    known: Mapping[str, Callable[[AllParams], Work]] = {
        "pretrain": _pretrain,
        "finetune_spam": _finetune_spam,
        "finetune_instruct": _finetune_instruct,
        "respond": _respond,
    }
    try:
        return known[stage](everything) if stage in known else None
    except (KeyError, OSError, UserError):  # of another version, or a model that cannot be read: the stage will say it
        return None


def forward(model: ModelConfig, length: int, blocks: int | None = None, head: int | None = None) -> float:
    """Operations of a forward pass, for each token of rows of `length` tokens.

    `blocks` of the model run (None: all); `head` is the number of outputs (None: the vocabulary).
    """
    blocks = model.n_layer if blocks is None else blocks
    scores = 2 * length * model.n_head * model.head_dim  # of all pairs, also the masked ones
    outputs = model.vocab_size if head is None else head
    return float(2 * (blocks * (memory.matrix_parameters(model) + scores) + model.n_embd * outputs))


def _pretrain(everything: AllParams) -> Work:
    config, counts = everything.pretrain, _counts("corpus")
    model = everything.model.config(everything.tokenizer.vocab_size)
    windows = [len(range(0, counts[f"{split}_tokens"] - config.context, config.stride)) for split in ("train", "val")]
    updates = config.epochs * steps_per_epoch(windows[0], config.batch_size)
    per_token = forward(model, config.context)
    operations = BOTH * per_token * updates * config.batch_size * config.context
    if short := config.short_windows:
        tokens = short.steps * short.batch_size * short.context
        operations += BOTH * forward(model, short.context) * tokens
        updates += short.steps
    rows = _evaluated(updates, config, windows) + windows[1]
    operations += FORWARD * per_token * rows * config.context
    training = pretrain.widest(config, model, everything.runtime)
    return Work(operations, BASE + training.memory, training)


def _finetune_spam(everything: AllParams) -> Work:
    config, counts = everything.finetune_spam, _counts("spam")
    model = _start(config.init_from, everything)
    longest, classes = min(counts["train_longest_tokens"], model.context_length), len(counts["train_labels"])
    width = {"context": float(model.context_length), "longest": float(longest)}.get(config.padding, PADDED * longest)
    splits = [counts[split] for split in ("train", "validation", "test")]
    updates = config.epochs * steps_per_epoch(splits[0], config.batch_size)
    frozen, trained = config.frozen_blocks(model.n_layer), UPPER_BLOCKS.get(config.trainable, model.n_layer)
    per_token = forward(model, longest, model.n_layer - frozen, head=0)
    backward = forward(model, longest, trained, head=0) * (1 if config.lora else 2)
    operations = updates * config.batch_size * width * (per_token + backward)
    operations += per_token * width * (_evaluated(updates, config, splits[:2]) + sum(splits))
    operations += forward(model, longest, frozen, head=0) * width * sum(splits)
    training = finetune_spam.room(config, model, everything.runtime, longest, classes)
    return Work(operations, BASE + training.memory, training)


def _finetune_instruct(everything: AllParams) -> Work:
    config, counts = everything.finetune_instruct, _counts("instructions")
    model = _start(config.init_from, everything)
    longest = min(counts["train_longest_tokens"], model.context_length)
    width = PADDED * longest
    updates = config.epochs * steps_per_epoch(counts["train"], config.batch_size)
    per_token = forward(model, longest)
    passes = 2 if config.lora else BOTH
    operations = passes * per_token * updates * config.batch_size * width
    operations += per_token * width * _evaluated(updates, config, [counts["train"], counts["validation"]])
    training = finetune_instruct.room(config, model, everything.runtime, longest)
    return Work(operations, BASE + training.memory, training)


def _respond(everything: AllParams) -> Work:
    config, counts = everything.respond, _counts("instructions")
    model = _start(everything.finetune_instruct.init_from, everything)
    prompt, new = min(counts["test_longest_tokens"], model.context_length), config.decoding.max_new_tokens
    operations = forward(model, prompt) * counts["test"] * (prompt + new / DECODING)
    rows = min(config.batch_size, counts["test"])
    size = memory.decoding(model, everything.runtime, rows, prompt, new)
    return Work(operations, BASE + size, None)


def _evaluated(updates: int, config: TrainConfig, splits: list[int]) -> int:
    """Rows of all evaluations along the way: before the first update, every `eval_every`, after the last."""
    times = 2 + updates // config.eval_every
    most = sum(splits) if config.eval_batches is None else config.eval_batches * config.batch_size
    return times * sum(min(rows, most) for rows in splits)


def _start(folder: str, everything: AllParams) -> ModelConfig:
    """The shape of the model that a fine-tuning starts from: of the folder, or of the model that will be there.

    Raises UserError if it is not known yet.
    """
    source, seen = folder, set[str]()
    while (item := everything.import_gpt2.get(source.removeprefix("models/"))) and source not in seen:
        seen.add(source)
        source = item.source
    if source == "models/pretrain":
        return everything.model.config(everything.tokenizer.vocab_size)
    if source == "models/instruct" != folder:
        raise UserError(folder, "will be a copy of a model that is made anew", "run `llm repro`")
    return model_folder.read_config(Path(folder))


def _counts(item: str) -> Any:
    return files.read_json(COUNTS / f"{item}.json")
