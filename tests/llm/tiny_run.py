"""A tiny training run of one of four kinds, with states and outputs, in the working directory: TASK [SIGNAL@STEP].

TASK-best ends early and keeps the weights of an evaluation before the last.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from llm.common import files, publishing
from llm.common.errors import error_contract
from llm.data.batches import IGNORED, Batch, BatchSource, Buckets, ConcatBatches, SequentialBatches, ShuffledBatches
from llm.evaluate.accuracy import predict
from llm.generate.config import greedy
from llm.generate.decoding import generate
from llm.model.classifier import Classifier, freeze
from llm.model.gpt import GPT
from llm.train import losses, resume
from llm.train.callbacks import Progress, Samples
from llm.train.history import History
from llm.train.loop import fit
from llm.train.task import Callback, Task
from tests import tiny
from tests.tiny import FP32

STEPS = 5
MODEL = replace(tiny.MODEL, vocab_size=20, context_length=8, dropout=0.2)
TRAIN = replace(tiny.TRAIN, save_every=2)
JUMPY = replace(TRAIN, keep="best", patience=2, eval_every=1, schedule="constant", warmup_steps=0)
BEST = {  # where the rate is too high to get far
    "pretrain": replace(JUMPY, lr=0.03),  # kept step 1, ends after step 3
    "spam": replace(JUMPY, lr=0.1),  # kept step 2, ends after step 4
    "instruct": replace(JUMPY, lr=0.1),  # kept step 1, ends after step 3
}
OnStep = Callable[[int], None]


class Rows:
    """Next-token rows, with a mask at the beginning for instructions and padding for buckets; or rows with a class."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.ids = torch.randint(20, (24, 9), generator=torch.Generator().manual_seed(1))
        self.lengths = [5 + 3 * n % 4 if kind == "buckets" else 8 for n in range(24)]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        ids = self.ids[list(indices)]
        if self.kind == "spam":
            return Batch(ids[:, :-1], ids[:, 0] % 2, torch.full((len(ids),), 8))
        targets = ids[:, 1:].clone()
        if self.kind in ("instruct", "buckets"):
            targets[:, :4] = IGNORED
        for row, i in enumerate(indices):
            targets[row, self.lengths[i] :] = IGNORED
        width = max(self.lengths[i] for i in indices)
        return Batch(ids[:, :width], targets[:, :width])


@dataclass
class Steps:
    """Hears of every step."""

    on_step: OnStep

    def progress(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        self.on_step(step)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        pass


def train(task: str, states: Callback | None = None, on_step: OnStep = lambda _step: None) -> tuple[nn.Module, History]:
    """The model after 5 steps, or that of the best, and its curve with what is written along it."""
    torch.manual_seed(5)
    task, _, best = task.partition("-")
    data, config, loss = Rows(task), BEST[task] if best else TRAIN, losses.fused_next_token
    gpt = GPT(MODEL if best else replace(MODEL, dropout_random="packed"))  # either resumes
    model: nn.Module = gpt
    source: BatchSource = ShuffledBatches(data, 6, STEPS, 1)
    look = SequentialBatches(data, 5, 2)
    samples: list[Callback] = []
    if task == "pretrain":
        source = ConcatBatches(ShuffledBatches(data, 4, 3, 2), ShuffledBatches(data, 6, STEPS - 3, 1))
        samples = [Samples(lambda: str(generate(gpt, [[1, 2]], greedy(4), ())), lambda updates: updates in (2, 3))]
    elif task == "spam":
        classifier = Classifier(gpt, 2, "last_token")
        freeze(classifier, "last_block")
        model, loss = classifier, losses.classification
        samples = [Samples(lambda: str(predict(classifier, look, FP32).argmax(dim=-1).tolist()))]
    else:
        config = replace(config, micro_batch_size=2)
        if task == "buckets":
            source = ShuffledBatches(data, 6, STEPS, 1, buckets=Buckets(data.lengths, 2))
    evaluations = {"train": look, "val": SequentialBatches(data, 7)}
    callbacks = [Progress(Steps(on_step)), *samples, states or Callback()]
    history = fit(Task(model, loss, source, evaluations), config, FP32, 3, callbacks)
    return model, history


def states(folder: Path, config: object = TRAIN, say: Callable[[str], None] = print) -> Any:
    """As a stage asks for them; the data set is a file."""
    return resume.checkpoints(folder / "states", config, [folder / "data"], TRAIN.save_every, say)


def bytes_of(model: nn.Module, history: History, folder: Path) -> dict[str, bytes]:
    """What a stage would publish, with every digit."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(model.named_parameters()), folder / "model.safetensors")
    (folder / "history.json").write_text(json.dumps([history.step, history.tokens_seen, history.rows, history.samples]))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def main(task: str, when: str = "") -> None:
    """Train, build the outputs, publish them, forget the states."""
    torch.set_num_threads(1)
    folder = Path.cwd()
    name, _, at = when.partition("@")

    def on_step(step: int) -> None:
        if at and step == int(at):
            os.kill(os.getpid(), signal.Signals[name])

    with error_contract():
        with states(folder, say=lambda text: print(text, file=sys.stderr)) as saved:
            model, history = train(task, saved, on_step)
        shutil.rmtree("outputs", ignore_errors=True)
        bytes_of(model, history, folder / "outputs" / "model")
        files.write_text(folder / "outputs" / "report.json", json.dumps([history.rows, history.samples]))
        publishing.publish(folder / "outputs" / "model", folder / "published" / "model")
        publishing.publish(folder / "outputs" / "report.json", folder / "published" / "report.json")
        shutil.rmtree("states")


if __name__ == "__main__":
    main(*sys.argv[1:])
