"""The peak of a training's memory in a process of its own: bytes before the model, at the peak, and as estimated."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

import stages
from llm.data.batches import IGNORED, Batch, ShuffledBatches
from llm.model import lora
from llm.model.classifier import Classifier, freeze
from llm.model.gpt import GPT
from llm.model.memory import Training
from llm.model.parts import FAMILIES
from llm.model.trainable import LoraConfig
from llm.runtime.device import RuntimeConfig, set_up_device
from llm.train import losses
from llm.train.loop import fit
from llm.train.task import Task
from tests.llm.tiny_run import MODEL, TRAIN


class Random:
    def __init__(self, rows: int, length: int, words: int, classes: int | None, counting: int | None) -> None:
        self.ids, self.classes, self.counting = torch.randint(words, (rows, length + 1)), classes, counting

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices) -> Batch:
        ids = self.ids[list(indices)]
        if self.classes:
            return Batch(ids[:, :-1], ids[:, 0] % self.classes, torch.full((len(ids),), ids.shape[1] - 1))
        targets = ids[:, 1:].clone()
        targets[:, self.counting :] = IGNORED
        return Batch(ids[:, :-1], targets)


def memory(kind: str) -> int:
    """Bytes that this process has (VmRSS) or had at most (VmHWM; ru_maxrss counts the process it was forked from)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def main(case: dict) -> dict:
    parts = FAMILIES[case["model"].get("family", "gpt2")]
    config = replace(MODEL, dropout=0.0, parts=parts, **case["model"])
    settings = RuntimeConfig(case["precision"], "cpu", 2, True, case.get("fused_loss", True))
    rows, length, batch = case["rows"], case["length"], case.get("batch", case["rows"])
    adapter = LoraConfig(**case["lora"]) if "lora" in case else None
    classes, blocks = case.get("classes"), case.get("trained_blocks")
    set_up_device(settings)
    before = memory("VmRSS")
    model: torch.nn.Module = GPT(config)
    if classes:
        model = Classifier(model, classes, "last_token")
        freeze(model, "all" if blocks is None else "last_block")
    if adapter:
        lora.add_lora(model, adapter, 1)
    counting = case.get("counting", length)
    data = Random(2 * batch, length, config.vocab_size, classes, counting)
    keep = case.get("keep", "last")
    train = replace(TRAIN, batch_size=batch, micro_batch_size=rows, keep=keep)
    task = Task(
        model,
        losses.classification if classes else losses.next_token_of(settings.fused_loss),
        ShuffledBatches(data, batch, 2, 1),  # the second has the moments of the first
        {"train": ShuffledBatches(data, batch, 1, 1), "val": ShuffledBatches(data, batch, 1, 2)},
    )
    fit(task, train, settings, 1)
    peak = memory("VmHWM")
    size = (config, settings, rows, length, batch > rows, blocks, adapter, classes, keep == "best")
    training = Training(*size, targets=rows * counting)
    return {"before": before, "peak": peak, "work": training.memory}


if __name__ == "__main__":
    assert stages  # its import, before torch starts threads, is the start of every stage
    print(json.dumps(main(json.loads(sys.argv[1]))))
