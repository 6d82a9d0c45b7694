"""Pretrain a GPT on the token shards: data/corpus -> models/pretrain, reports/pretrain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from llm import checkpoint, files, losses, packing, preflight, resume, runtime
from llm.batches import BatchSource, Chain, InOrder, Shuffled, derive, steps_per_epoch
from llm.book_mode import fit_as_the_book
from llm.compiled import CompiledNextToken
from llm.errors import DATA, USAGE, UserError
from llm.generate import generate, greedy
from llm.history import COLUMNS, History, Sampling
from llm.model import GPT, ModelConfig, count_parameters
from llm.optim import AdamW
from llm.runtime import RuntimeConfig
from llm.token_windows import PretrainConfig, TokenWindows
from llm.tokenizer import Tokenizer, fingerprint
from llm.train import evaluate, fit, looks
from stages import Run, run_stage, stage

CORPUS, TOKENIZER = Path("data/corpus"), Path("data/tokenizer")
OPTIMIZER = "optimizer.safetensors"
SAMPLE_COLUMNS = ("step", "text")


@dataclass(frozen=True)
class Params:
    """What this stage reads."""

    seed: int
    runtime: RuntimeConfig
    model: ModelConfig
    pretrain: PretrainConfig


def main(params: Params) -> None:
    """Train, sample along the way, publish the model with its curve."""
    with stage("pretrain", params) as run:
        config = params.pretrain
        device = runtime.setup(params.runtime)
        run.reads(CORPUS)
        tokenizer = Tokenizer.load(TOKENIZER)
        train = windows("train", params, config.context, config.stride)
        val = windows("val", params, config.context, config.stride)
        prompt = sample_prompt(tokenizer, config, params.model.context_length)
        check_room(params, len(batches(train, params)), run)
        torch.manual_seed(params.seed if config.mode == "book" else derive(params.seed, "init"))
        model = GPT(params.model).to(device)
        run.say(f"{count_parameters(model):,} parameters, {train.tokens:,} training tokens on {device}")

        def sample() -> str:
            return continue_text(model, tokenizer, prompt, config.sample_tokens, params.runtime)

        out = run.out("models/pretrain")

        def save_optimizer(optimizer: AdamW) -> None:
            resume.save_optimizer(out / OPTIMIZER, optimizer)

        on_end = save_optimizer if config.save_optimizer else None
        run.turn_to("compute")
        history = train_model(model, train, val, params, run, when_to_write(sample, len(train), config), on_end)
        run.say(history.ending(config))
        every_window = InOrder(val, config.batch_size)
        loss = losses.next_token_of(params.runtime.fused_loss)
        whole_val = evaluate(
            packing.beside(model, params.runtime, packing.EVALUATION_ROWS),
            loss,
            every_window,
            params.runtime,
            config.micro_batch_size,
            section="pretrain",
        )
        run.turn_to("save")
        checkpoint.save_model(model, TOKENIZER, out)
        files.write_csv(run.out("reports/pretrain/loss.csv"), COLUMNS, history.table())
        files.write_csv(run.out("reports/pretrain/samples.csv"), SAMPLE_COLUMNS, history.samples)
        run.write_metrics(
            {
                **history.losses(config),
                "val_bits_per_byte": whole_val["loss"] / math.log(2) * val.tokens / val.text_bytes,
                "parameters": count_parameters(model),
                "train_batches": steps_per_epoch(len(train), config.batch_size),
                "val_batches": len(every_window),
                "tokens_seen": history.kept(config)["tokens_seen"],
            },
            headline=["train_loss", "val_loss"],
        )


def check_room(params: Params, steps: int, run: Run) -> None:
    """Refuse what does not fit into memory or on the disk, by the widest of the windows."""
    config, short = params.pretrain, params.pretrain.short_windows
    sizes = [(config.batch_size, config.context)] + ([(short.batch_size, short.context)] if short else [])
    trainings = []
    for batch, context in sizes:
        rows = min(batch, config.micro_batch_size or batch)
        shape = (params.model, params.runtime, rows, context, batch > rows)
        trainings.append(preflight.Training(*shape, keeps_best=config.keep == "best"))
    widest = max(trainings, key=lambda t: t.memory)
    moments = 2 * preflight.FP32 * widest.trainable if config.save_optimizer else 0
    preflight.check_training("pretrain", widest, run.work, steps, config.save_every, moments)


def train_model(
    model: GPT,
    train: TokenWindows,
    val: TokenWindows,
    params: Params,
    run: Run,
    sampling: Sampling,
    on_end: Callable[[AdamW], None] | None,
) -> History:
    """The history of the training; in mode exact a run can be stopped and goes on."""
    config, loss = params.pretrain, losses.next_token_of(params.runtime.fused_loss)
    if config.mode == "book":
        run.say("mode book saves no states: a run that was stopped starts at its beginning")
        data = (train, val, config, params.runtime, params.seed)
        return fit_as_the_book(model, loss, *data, run, sampling, section="pretrain", on_end=on_end)
    loss = CompiledNextToken(model, params.runtime.fused_loss) if config.compile else loss
    with resume.states(run.states, params, [CORPUS, TOKENIZER], config.save_every, run.say) as states:
        return fit(
            model,
            loss,
            batches(train, params),
            looks(train, val, config),
            config,
            params.runtime,
            params.seed,
            run,
            sampling,
            section="pretrain",
            states=states,
            on_end=on_end,
        )


def windows(split: str, params: Params, context: int, stride: int, where: str = "pretrain.context") -> TokenWindows:
    """The windows of one split, whose length stands at the key `where` of params.yaml."""
    found = TokenWindows(CORPUS, split, context, stride, params.model.vocab_size, where)
    if found.tokenizers != {fingerprint(TOKENIZER)}:
        raise UserError(str(CORPUS), f"was not cut with {TOKENIZER}", "run `dvc repro tokenize`", DATA)
    return found


def batches(train: TokenWindows, params: Params) -> BatchSource:
    """The batches of the whole run: short windows first, where they are asked for."""
    config, short = params.pretrain, params.pretrain.short_windows
    per_epoch = steps_per_epoch(len(train), config.batch_size)
    where = "pretrain.batch_size"
    long = Shuffled(train, config.batch_size, config.epochs * per_epoch, params.seed, where)
    if short is None:
        return long
    section, seed = "pretrain.short_windows", derive(params.seed, "short windows")
    shorter = windows("train", params, short.context, short.context, f"{section}.context")
    return Chain(Shuffled(shorter, short.batch_size, short.steps, seed, f"{section}.batch_size"), long)


def when_to_write(write: Callable[[], str], windows: int, config: PretrainConfig) -> Sampling:
    """As `sample_after` has it; an epoch goes over so many windows, and the short ones before make none."""
    if config.sample_after == "evaluation":
        return Sampling(write)
    first = config.short_windows.steps if config.short_windows else 0
    per_epoch = steps_per_epoch(windows, config.batch_size)
    return Sampling(write, lambda updates: updates > first and (updates - first) % per_epoch == 0)


def sample_prompt(tokenizer: Tokenizer, config: PretrainConfig, context: int) -> list[int]:
    """The ids of the sample prompt; raises UserError where what follows it does not fit into the model's context."""
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
    packed = packing.beside(model, precision, rows=1)
    with runtime.autocast(precision):
        return tokenizer.decode(prompt + generate(packed, [prompt], greedy(new_tokens), tokenizer.eot)[0])


if __name__ == "__main__":
    run_stage(main, Params)
