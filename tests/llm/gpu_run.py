"""Train, stop, resume, save, decode and serve on a device and on the CPU: KIND FOLDER.

Without such a GPU, the device is that of tests/remote_device.py. On a real one, cases with dropout or sampling differ.
Prints as JSON where the results differ. In bf16, a case only has to come to an end: a CPU rounds elsewhere.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from llm.common.errors import Terminated
from llm.data import tokenizer
from llm.data.ahead import prepared
from llm.data.batches import SequentialBatches, ShuffledBatches
from llm.data.spam_dataset import SpamDataset
from llm.data.tokenizer import Tokenizer
from llm.evaluate.accuracy import predict
from llm.generate.config import DecodingConfig, greedy
from llm.generate.decoding import continuations
from llm.model.classifier import Classifier, freeze
from llm.model.gpt import GPT
from llm.model.lora import add_lora, merge_lora
from llm.model.packed_weights import pack_for_decoding
from llm.model.parts import FAMILIES
from llm.model.trainable import LoraConfig, Position
from llm.runtime.device import RuntimeConfig, autocast, set_up_device
from llm.serve import look
from llm.serve.engine import Engine, Request
from llm.serve.text import TextStream
from llm.train import frozen_blocks, losses, resume
from llm.train.book_mode import fit_as_the_book
from llm.train.callbacks import Samples, SaveOptimizer, WarmStart
from llm.train.history import History
from llm.train.loop import evaluation_batches, fit
from llm.train.task import Task
from llm.weights import classifier_folder, model_folder
from tests import tiny
from tests.llm.reason import ranked as with_rewards
from tests.llm.train import ranked
from tests.llm.train.test_loop import Sentences

STEPS = 5
CONFIG = replace(tiny.TRAIN, batch_size=4, micro_batch_size=3, eval_every=2, eval_batches=1, keep="best")
SAMPLED = DecodingConfig(6, 1.3, top_k=40, top_p=0.9)
PROMPTS = [[7, 8, 9], [1], [200, 3, 4, 5, 6], [42, 42]]
TEXTS = ["the quick brown fox", "win", "jump over the lazy dogs", "fox"] * 2
LORA = LoraConfig(rank=2, alpha=4, scaling="alpha/rank")
TOLERANCE = 1e-4


def model_of(runtime: RuntimeConfig, family: Any = "gpt2", **changes: Any) -> GPT:
    torch.manual_seed(0)
    shape = tiny.MODEL if family == "gpt2" else tiny.of_family(family)
    return GPT(replace(shape, init="torch", **changes)).to(runtime.device)


def pretrain(runtime: RuntimeConfig, folder: Path, **changes: Any) -> Any:
    """Stop a training and resume it with a new model; then train on with the moments that it wrote."""
    data, moments = Sentences(length=8), folder / "moments.safetensors"
    source = prepared(ShuffledBatches(data, CONFIG.batch_size, STEPS, 1), runtime.device)

    def go(*callbacks: Any) -> History:
        model = model_of(runtime, dropout=0.1, **changes)
        task = Task(model, losses.next_token_of(True), source, evaluation_batches(data, data, CONFIG))

        def sample() -> str:
            with autocast(runtime):
                return str(continuations(model, [[3, 6]], greedy(4), ())[0].ids)

        return fit(task, CONFIG, runtime, 1, [Samples(sample), SaveOptimizer(moments), *callbacks])

    saved = resume.TrainingCheckpoints(folder / "states", 2, lambda _: None)
    saved.on_signal(15, None)
    try:
        go(saved)
        raise AssertionError("it did not stop")
    except Terminated:
        history = go(resume.TrainingCheckpoints(folder / "states", 2, lambda _: None))
    return [history.rows, history.samples, go(WarmStart(moments)).rows]


def as_the_book(runtime: RuntimeConfig, _folder: Path) -> Any:
    data, config = Sentences(length=8), replace(CONFIG, epochs=1, keep="last")
    return fit_as_the_book(model_of(runtime), losses.next_token, data, data, config, runtime, 1).rows


def classify(runtime: RuntimeConfig, folder: Path, position: Position) -> Any:
    """Train above frozen blocks, or with LoRA for the position `mean`, whose attention sees all tokens."""
    tokenizer.train([" ".join(TEXTS)], 270, folder)
    data = SpamDataset([0, 1] * 4, TEXTS, Tokenizer.load(folder), limit=12)
    data.width, whole = 12, position == "mean"
    model = Classifier(model_of(runtime), 2, position, 12, causal=not whole).to(runtime.device)
    freeze(model, "lora" if whole else "last_block")
    if whole:
        add_lora(model, LORA, 1)
    trained = model if whole else frozen_blocks.UpperBlocks(model, 1)
    seen: Any = data if whole else frozen_blocks.compute(model, 1, data, runtime, folder)
    source = prepared(ShuffledBatches(seen, 4, 3, 1), runtime.device)
    task = Task(trained, losses.classification, source, evaluation_batches(seen, seen, CONFIG))
    rows = fit(task, CONFIG, runtime, 1).rows
    model_folder.save_adapter(merge_lora(model), LORA, "base", folder)
    classifier_folder.save_classifier(model, ["ham", "spam"], folder, folder / "spam")
    again = classifier_folder.load_classifier(folder / "spam")[0].to(runtime.device).eval()
    shown = finished(look.classify(again, ["ham", "spam"], data.ids[0], data.pad, str))
    scores = [predict(one, SequentialBatches(part, 3), runtime) for one, part in ((trained, seen), (again, data))]
    return [rows, [one.tolist() for one in scores], shown]


def adapt(runtime: RuntimeConfig, folder: Path, family: Any) -> Any:
    """Train with LoRA, and write and read the merged model."""
    tokenizer.train([" ".join(TEXTS)], 270, folder)
    data, model = Sentences(length=8), model_of(runtime, family, tie_head=False)
    add_lora(model, LORA, 1)
    source = ShuffledBatches(data, 4, 3, 1)
    task = Task(model, losses.next_token_of(True), source, evaluation_batches(data, data, CONFIG))
    rows = fit(task, CONFIG, runtime, 1).rows
    merge_lora(model)
    model_folder.save_model(model, folder, folder / "merged")
    again = model_folder.load_model(folder / "merged").to(runtime.device).eval()
    return [rows, [continuations(one, PROMPTS, greedy(5), ())[1].logprobs for one in (model, again)]]


def decode(runtime: RuntimeConfig, _folder: Path, family: Any) -> Any:
    """Texts by themselves and served together, and a look inside."""
    model = pack_for_decoding(model_of(runtime, family).eval(), runtime, rows=8)
    kinds = [greedy(6), SAMPLED, replace(SAMPLED, top_p=None), replace(SAMPLED, top_k=None)]
    alone = [continuations(model, PROMPTS, config, (), seeds=range(8), copies=2) for config in kinds]
    engine = Engine(model, frozenset(), rows=8)
    requests = [Request(p, c, 3, TextStream(str), logprobs=2) for p, c in zip(PROMPTS, kinds, strict=True)]
    engine.waiting.extend(requests)
    while engine.busy:
        engine.step()
    inside = finished(look.next_token(model, PROMPTS[2], SAMPLED, 3, 0, 0, str))
    told = [[[one.ids, one.logprobs] for one in found] for found in alone]
    return [told, [request.tokens for request in requests], inside]


def finished(work: look.Work) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


Case = Callable[[RuntimeConfig, Path], Any]
CASES: dict[str, Case] = {
    "eager": partial(pretrain, attention="eager"),
    "packed dropout": partial(pretrain, dropout_random="packed"),
    "book": as_the_book,
    **{f"pretrain {family}": partial(pretrain, family=family) for family in FAMILIES},
    **{f"decode {family}": partial(decode, family=family) for family in FAMILIES},
    **{f"lora {family}": partial(adapt, family=family) for family in ("gpt2", "qwen2")},
    **{f"classify {position}": partial(classify, position=position) for position in get_args(Position)},
    **{name: lambda runtime, _, name=name: shown(ranked.train(name, runtime)) for name in ranked.CASES},
    **{name: lambda runtime, _, name=name: shown(with_rewards.train(name, runtime)) for name in with_rewards.CASES},
}

IN_HALF = (
    "pretrain gpt2",
    "pretrain qwen3",
    "decode gpt2",
    "decode qwen3",
    "lora qwen2",
    "classify last",
    "grpo",
    "dpo",
)


def shown(found: dict[str, Any]) -> Any:
    return [found["rows"], found["norms"]]


def differences(one: Any, other: Any, where: str = "") -> Iterator[str]:
    """Where two results differ by more than rounding."""
    if isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            yield f"{where}: {one} {other}"
    elif isinstance(one, dict | list | tuple) and type(one) is type(other) and len(one) == len(other):
        for key in one if isinstance(one, dict) else range(len(one)):
            yield from differences(one[key], other[key], f"{where}.{key}")
    elif one != other:
        yield f"{where}: {one!s:.80} {other!s:.80}"


def results(device: Any, folder: Path) -> dict[str, Any]:
    runtime = RuntimeConfig("fp32", device, 1, False, True)
    set_up_device(runtime)
    found = {}
    for name, case in CASES.items():
        (made := folder / device / name).mkdir(parents=True)
        found[name] = case(runtime, made)
    return found


def everything(kind: str, folder: Path) -> dict[str, Any]:
    found = results(kind, folder)
    half = RuntimeConfig("bf16", "cuda", 1, False, True, log_every=2, checkpoint_activations=True)
    for name in IN_HALF if kind == half.device else ():
        (made := folder / "bf16" / name).mkdir(parents=True)
        CASES[name](half, made)
    return found


def main() -> None:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if {"cuda": torch.cuda, "mps": torch.backends.mps}[kind].is_available():
        there = everything(kind, folder)
    else:
        from tests.remote_device import Remote  # with it, PyTorch takes no other GPU

        with Remote(kind):
            there = everything(kind, folder)
    torch.use_deterministic_algorithms(False)
    print(json.dumps(list(differences(there, results("cpu", folder)))))


if __name__ == "__main__":
    main()
