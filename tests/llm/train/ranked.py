"""Tiny trainings by name, on the ranks that the environment gives: `python -m MODULE OUT RANKS SHARDING CASE...`.

MODULE is this one or another that calls `main`. Writes the curve, the gradient norm of each update and a hash of the
weights to OUT.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm.common.ranks import is_first
from llm.data.batches import IGNORED, Batch, SequentialBatches, ShuffledBatches
from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.model.lora import add_lora
from llm.model.trainable import LoraConfig
from llm.train import losses
from llm.train.config import TrainConfig
from llm.train.loop import fit
from llm.train.ranks import Ranks, ranks_of
from llm.train.task import Callback, Loss, Task, Training
from tests import tiny
from tests.tiny import FP32, MODEL, TRAIN

ROWS, STEPS = 18, 6


class Texts:
    """Random rows of different lengths, padded; some have few targets."""

    def __init__(self, classes: int | None = None) -> None:
        draws = torch.Generator().manual_seed(1)
        self.ids = torch.randint(1, 300, (ROWS, 13), generator=draws)
        self.lengths = torch.randint(2, 13, (ROWS,), generator=draws)
        self.classes = classes

    def __len__(self) -> int:
        return ROWS

    def batch(self, indices: Any) -> Batch:
        rows = torch.tensor(list(indices))
        lengths = self.lengths[rows]
        if self.classes:
            return Batch(self.ids[rows, :-1], rows % self.classes, lengths)
        places = torch.arange(12).expand(len(rows), 12)
        targets = self.ids[rows, 1:].masked_fill(places >= lengths[:, None], IGNORED)
        return Batch(self.ids[rows, :-1], targets)


class Norms(Callback):
    def __init__(self) -> None:
        self.found: list[float] = []

    def on_update(self, training: Training) -> None:
        self.found.append(training.gradient_norm)


def gpt(**changes: Any) -> GPT:
    torch.manual_seed(7)
    return GPT(replace(MODEL, **changes))


def last_block() -> nn.Module:
    model = gpt()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith(("transformer.h.1.", "transformer.ln_f."))
    return model


def lora() -> nn.Module:
    model = gpt()
    add_lora(model, LoraConfig(rank=2, alpha=4, scaling="alpha/rank"), 11)
    return model


def _built(config: Any) -> nn.Module:
    torch.manual_seed(7)
    return GPT(config)


def _classifier() -> nn.Module:
    torch.manual_seed(7)
    return Classifier(GPT(MODEL), 3, "last_token")


NEXT = losses.next_token_of(False)
Case = tuple[Callable[[], nn.Module], Loss, TrainConfig, Any]
CASES: dict[str, Case] = {
    "tied": (gpt, NEXT, TRAIN, FP32),
    "untied": (lambda: gpt(tie_head=False), NEXT, TRAIN, FP32),
    "fused": (gpt, losses.next_token_of(True), TRAIN, FP32),
    "no clipping": (gpt, NEXT, replace(TRAIN, clip_norm=None), FP32),
    "dropout": (lambda: gpt(dropout=0.2), NEXT, replace(TRAIN, micro_batch_size=2), FP32),
    "packed dropout": (
        lambda: gpt(dropout=0.2, dropout_random="packed"),
        NEXT,
        replace(TRAIN, micro_batch_size=2),
        FP32,
    ),
    "micro-batches of one": (gpt, NEXT, replace(TRAIN, micro_batch_size=1, batch_size=5), FP32),
    "keep best": (gpt, NEXT, replace(TRAIN, keep="best", eval_every=1), FP32),
    "last block": (last_block, NEXT, TRAIN, FP32),
    "lora": (lora, NEXT, TRAIN, FP32),
    "llama": (lambda: _built(tiny.of_family("llama")), NEXT, TRAIN, FP32),
    "classifier": (_classifier, losses.classification, TRAIN, FP32),
}


def train(name: str, runtime: Any, callbacks: Any = ()) -> dict[str, Any]:
    build, loss, config, _ = CASES[name]
    data = Texts(3 if name == "classifier" else None)
    source = ShuffledBatches(data, config.batch_size, STEPS, seed=3)
    looks = {split: SequentialBatches(data, 7) for split in ("train", "val")}
    return run(Task(build().to(runtime.device), loss, source, looks), config, runtime, callbacks)


def run(task: Task, config: TrainConfig, runtime: Any, callbacks: Any = (), ranks: Any = None) -> dict[str, Any]:
    norms, model = Norms(), task.model
    history = fit(task, config, runtime, 5, [norms, *callbacks], ranks)
    weights = hashlib.sha256()
    for tensor in model.state_dict().values():
        weights.update(tensor.cpu().numpy().tobytes())
    return {"rows": history.rows, "norms": norms.found, "weights": weights.hexdigest()}


def main(train: Callable[[str, Any], dict[str, Any]], all_names: Any) -> None:
    out, ranks, sharding, *names = sys.argv[1:]
    torch.set_num_threads(1)
    runtime = replace(FP32, ranks=int(ranks), sharding=sharding, fused_loss=False)
    Ranks.end = lambda _self, _model: None  # type: ignore[method-assign]  # the next case uses the same processes
    assert ranks_of(runtime).size == int(ranks)
    found = {name: train(name, runtime) for name in names or all_names}
    if is_first():
        Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(train, CASES)
