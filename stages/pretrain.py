"""Pretrain a GPT on the token shards: data/corpus -> models/pretrain, reports/pretrain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llm.common.errors import DATA, USAGE, UserError
from llm.common.seeds import derive
from llm.data.ahead import prepared
from llm.data.batches import BatchSource, ConcatBatches, SequentialBatches, ShuffledBatches, steps_per_epoch
from llm.data.corpus_dataset import TokenWindows
from llm.data.source import Source
from llm.data.tokenizer import Tokenizer, fingerprint
from llm.generate.config import greedy
from llm.generate.decoding import generate
from llm.model import memory, packed_weights
from llm.model.config import ModelConfig, ModelParams
from llm.model.gpt import GPT, count_parameters
from llm.runtime.device import RuntimeConfig, autocast, set_up_device
from llm.train import losses
from llm.train.book_mode import fit_as_the_book
from llm.train.callbacks import Progress, Samples, SaveOptimizer
from llm.train.compiled import CompiledNextToken
from llm.train.history import COLUMNS, SAMPLE_COLUMNS, History
from llm.train.loop import evaluate, evaluation_batches
from llm.train.room import room_for
from llm.train.task import Callback, Task
from llm.weights import model_card, model_folder
from llm.weights.model_card import Card
from stages.recipe import Recipe
from stages.run import Run, from_section, full_keys, run_stage, stage
from stages.sections.pretrain import PretrainConfig

CORPUS, TOKENIZER = Path("data/corpus"), Path("data/tokenizer")
OPTIMIZER = "optimizer.safetensors"
ALSO = {"corpus": "download.corpus"}


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    model: ModelParams
    pretrain: PretrainConfig
    corpus: Source  # for the model card


def main(params: Params) -> None:
    """Train, sample along the way, publish the model with its curve."""
    with stage("pretrain", full_keys(params, ALSO)) as run:
        config = params.pretrain
        recipe = Recipe(run, "pretrain", config, params.runtime, params.seed)
        device = set_up_device(params.runtime)
        run.reads(CORPUS)
        tokenizer = Tokenizer.load(TOKENIZER)
        shape = params.model.config(tokenizer.vocab_size)
        train = windows("train", shape.vocab_size, config.context, config.stride)
        val = windows("val", shape.vocab_size, config.context, config.stride)
        prompt = sample_prompt(tokenizer, config, shape.context_length)
        training = widest(config, shape, params.runtime)
        moments = 2 * memory.FP32 * training.trainable if config.save_optimizer else 0
        recipe.check_room(training, len(batches(train, params, shape.vocab_size)), moments)
        torch.manual_seed(params.seed if config.mode == "book" else derive(params.seed, "init"))
        model = GPT(shape).to(device)
        run.say(f"{count_parameters(model):,} parameters, {train.tokens:,} training tokens on {device}")

        out = run.out("models/pretrain")
        samples = Samples(
            lambda: continue_text(model, tokenizer, prompt, config.sample_tokens, params.runtime),
            samples_due(len(train), config),
        )
        callbacks = [samples, *([SaveOptimizer(out / OPTIMIZER)] if config.save_optimizer else [])]
        run.turn_to("compute")
        history = train_model(recipe, model, train, val, params, callbacks)
        every_window = SequentialBatches(val, config.batch_size)
        whole_val = evaluate(
            packed_weights.packed_copy(model, params.runtime, packed_weights.EVALUATION_ROWS),
            losses.next_token_of(params.runtime.fused_loss),
            every_window,
            params.runtime,
            config.micro_batch_size,
            section="pretrain",
        )
        run.turn_to("save")
        model_folder.save_model(model, TOKENIZER, out)
        run.write_table("loss", COLUMNS, history.table())
        run.write_table("samples", SAMPLE_COLUMNS, history.samples)
        metrics = {
            **history.losses(config),
            "val_bits_per_byte": whole_val["loss"] / math.log(2) * val.tokens / val.text_bytes,
            "parameters": count_parameters(model),
            "train_batches": steps_per_epoch(len(train), config.batch_size),
            "val_batches": len(every_window),
            "tokens_seen": history.kept(config)["tokens_seen"],
        }
        run.write_metrics(metrics, headline=["train_loss", "val_loss"])
        model_card.write(out, card(params, run, metrics), model_card.of_source(params.corpus))


def card(params: Params, run: Run, metrics: Mapping[str, Any]) -> Card:
    """The model card of the model."""
    shape = params.model
    return Card(
        "pretrain",
        "text-generation",
        f"A language model of the family {shape.family} with {metrics['parameters']:,} parameters, trained from random"
        f" weights on {metrics['tokens_seen']:,} tokens. It continues a text of up to {shape.context_length} tokens.",
        run.inputs(TOKENIZER),
        {"seed": params.seed, "runtime": params.runtime, "model": params.model, "pretrain": params.pretrain},
        {name: value for name, value in metrics.items() if "val_" in name and name != "val_batches"},
        "the validation split of data/corpus",
        params.corpus,
        ("It is not fine-tuned: it continues texts, and does not answer.",),
    )


def widest(config: PretrainConfig, model: ModelConfig, runtime: RuntimeConfig) -> memory.Training:
    """What decides about the memory: the long windows, or the short ones of larger batches."""
    trainings = [room_for(config, model, runtime, config.context)]
    if short := config.short_windows:
        trainings.append(room_for(replace(config, batch_size=short.batch_size), model, runtime, short.context))
    return max(trainings, key=lambda training: training.memory)


def train_model(
    recipe: Recipe, model: GPT, train: TokenWindows, val: TokenWindows, params: Params, callbacks: list[Callback]
) -> History:
    """Train, and return the history; in mode exact a stopped run resumes."""
    config, loss = params.pretrain, losses.next_token_of(params.runtime.fused_loss)
    if config.mode == "book":
        recipe.run.say("mode book saves no states: a stopped run starts over")
        callbacks = [*callbacks, Progress(recipe.run)]
        history = fit_as_the_book(
            model, loss, train, val, config, params.runtime, params.seed, callbacks, section="pretrain"
        )
        recipe.run.say(history.ending(config))
        return history
    if config.compile:
        loss = CompiledNextToken(model, params.runtime.fused_loss)
    training = prepared(batches(train, params, model.config.vocab_size), params.runtime.device)
    task = Task(model, loss, training, evaluation_batches(train, val, config), "pretrain")
    return recipe.train(task, [CORPUS, TOKENIZER], callbacks, keep_moments=config.save_optimizer)


def windows(split: str, vocab_size: int, context: int, stride: int, where: str = "pretrain.context") -> TokenWindows:
    """The windows of one split; `where` is the key of params.yaml with their length."""
    found = TokenWindows(CORPUS, split, context, stride, vocab_size, where)
    if found.tokenizers != {fingerprint(TOKENIZER)}:
        raise UserError(str(CORPUS), f"was not tokenized with {TOKENIZER}", "run `dvc repro tokenize`", DATA)
    return found


def batches(train: TokenWindows, params: Params, vocab_size: int) -> BatchSource:
    """The batches of the whole run: short windows first, if there are any."""
    config, short = params.pretrain, params.pretrain.short_windows
    per_epoch = steps_per_epoch(len(train), config.batch_size)
    where = "pretrain.batch_size"
    long = ShuffledBatches(train, config.batch_size, config.epochs * per_epoch, params.seed, where)
    if short is None:
        return long
    section, seed = "pretrain.short_windows", derive(params.seed, "short windows")
    shorter = windows("train", vocab_size, short.context, short.context, f"{section}.context")
    return ConcatBatches(ShuffledBatches(shorter, short.batch_size, short.steps, seed, f"{section}.batch_size"), long)


def samples_due(windows: int, config: PretrainConfig) -> Callable[[int], bool] | None:
    """After how many updates a sample is due: at the end of every epoch over so many windows; None: every evaluation.

    Updates on short windows come first and make no epoch.
    """
    if config.sample_after == "evaluation":
        return None
    first = config.short_windows.steps if config.short_windows else 0
    per_epoch = steps_per_epoch(windows, config.batch_size)
    return lambda updates: updates > first and (updates - first) % per_epoch == 0


def sample_prompt(tokenizer: Tokenizer, config: PretrainConfig, context: int) -> list[int]:
    """The ids of the sample prompt; raises UserError if prompt and sample exceed the model's context."""
    prompt = tokenizer.encode(config.sample_prompt)
    room = context - len(prompt)
    if config.sample_tokens > room:
        what = f"{config.sample_tokens} after a prompt of {len(prompt)} exceed the model's context of {context}"
        fix = f"give {room} or less" if room > 0 else "shorten sample_prompt"
        raise UserError("params.yaml: pretrain.sample_tokens", what, fix, USAGE)
    return prompt


def continue_text(
    model: GPT, tokenizer: Tokenizer, prompt: list[int], new_tokens: int, precision: RuntimeConfig
) -> str:
    """The prompt with its greedy continuation, in the precision of the training."""
    packed = packed_weights.packed_copy(model, precision, rows=1)
    with autocast(precision):
        return tokenizer.decode(prompt + generate(packed, [prompt], greedy(new_tokens), tokenizer.stops)[0])


if __name__ == "__main__":
    run_stage(main, Params, from_section("pretrain", ALSO), ranked=True)
