"""Tiny trainings with rewards, preferences and a teacher, as in tests/llm/train/ranked.py.

With rewards, the loss of a row of the curve is that of sampled validation answers, so rows are equal only if all ranks
sampled the answers of one process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llm.data import tokenizer
from llm.data.batches import IGNORED, SequentialBatches, ShuffledBatches
from llm.data.prompts import make_frame
from llm.data.tokenizer import Tokenizer
from llm.model.gpt import GPT
from llm.preference.dataset import PairBatch
from llm.preference.loss import Preference, set_reference
from llm.reason.grpo import GrpoLoss
from llm.reason.problems import Style
from llm.reason.problems import Task as Problems
from llm.reason.responses import Asker
from llm.reason.soft_targets import soft_targets
from llm.train.callbacks import Measures
from llm.train.ranks import ranks_of
from llm.train.task import Task, Training
from tests import tiny
from tests.llm.reason.test_rollouts import CONFIG, PROBLEMS, Lenient
from tests.llm.train import ranked
from tests.tiny import TRAIN

REWARDS = replace(CONFIG, problems_at_once=3)


def model_of(device: str, **changes: Any) -> GPT:
    torch.manual_seed(0)
    return GPT(replace(tiny.MODEL, vocab_size=257, init="torch", **changes)).to(device)


def with_rewards(runtime: Any, micro_batch_size: int | None = None, **changes: Any) -> dict[str, Any]:
    config, ranks = replace(REWARDS, **changes), ranks_of(runtime)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.train(["0+1=A1 S1"], 257, Path(folder))
        words = Tokenizer.load(Path(folder))
    model = model_of(runtime.device)
    reference = model_of(runtime.device, n_layer=1).eval() if config.kl else None
    asker = Asker(model, words, make_frame("none", words), Problems("exact", Style("S", "A")), ranks=ranks)
    source = Lenient(asker, PROBLEMS, config, ranked.STEPS, 1, runtime, reference, micro_batch_size)
    loss = GrpoLoss(config)

    def validate(now: nn.Module) -> Mapping[str, float]:
        answers = replace(asker, model=now).responses(PROBLEMS, config.decoding, 3, copies=2, batch_size=2)
        return {"loss": sum(sum(one.ids) + one.logprob for each in answers for one in each) / 1000}

    def measure(training: Training) -> dict[str, float]:
        return source.measures | loss.measures(ranks)

    measures = Measures(measure, lambda: source.sample(0).measures | loss.measures(ranks))
    training = replace(TRAIN, micro_batch_size=micro_batch_size)
    return ranked.run(Task(model, loss, source, {"val": validate}), training, runtime, [measures], ranks)


class Pairs:
    """Random pairs of answers; the questions are no targets."""

    def __init__(self) -> None:
        draws = torch.Generator().manual_seed(1)
        self.ids = torch.randint(1, 257, (ranked.ROWS, 2, 13), generator=draws)
        self.lengths = torch.randint(5, 13, (ranked.ROWS, 2), generator=draws)
        self.reference: Any = None

    def __len__(self) -> int:
        return ranked.ROWS

    def batch(self, indices: Any) -> PairBatch:
        rows = torch.tensor(list(indices))
        places = torch.arange(12).expand(len(rows), 2, 12)
        ignored = (places < 3) | (places >= self.lengths[rows][..., None])
        targets = self.ids[rows, :, 1:].masked_fill(ignored, IGNORED)
        reference = None if self.reference is None else self.reference[rows]
        return PairBatch(self.ids[rows, :, :-1], targets, reference=reference)


def with_preferences(runtime: Any, average: Any, anchor: float, **changes: Any) -> dict[str, Any]:
    model, data, config = model_of(runtime.device), Pairs(), replace(TRAIN, **changes)
    loss, ranks = Preference(0.1, average, 0.1, anchor), ranks_of(runtime)
    set_reference(model, data, loss, runtime, config.batch_size, config.micro_batch_size, ranks)  # type: ignore[arg-type]
    source = ShuffledBatches(data, config.batch_size, ranked.STEPS, seed=3)
    found = ranked.run(Task(model, loss, source, {"val": SequentialBatches(data, config.batch_size)}), config, runtime)
    assert found["rows"][0]["val_margin"] == 0  # exactly
    return found


def with_a_teacher(runtime: Any) -> dict[str, Any]:
    data = ranked.Texts()
    source = ShuffledBatches(data, TRAIN.batch_size, ranked.STEPS, seed=3)
    model, teacher = (ranked.gpt(n_layer=layers).to(runtime.device) for layers in (2, 3))
    return ranked.run(Task(model, soft_targets(teacher), source, {"val": SequentialBatches(data, 7)}), TRAIN, runtime)


CASES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "grpo": with_rewards,
    "two updates, kl, of answers": lambda runtime: with_rewards(
        runtime, 2, updates=2, kl=0.1, average="answers", clip=(0.02, 0.02)
    ),
    "one problem at once": lambda runtime: with_rewards(runtime, 3, problems_at_once=1),
    "dpo": lambda runtime: with_preferences(runtime, "sum", 0.0),
    "dpo by mean, with an anchor": lambda runtime: with_preferences(
        runtime, "mean", 1.0, micro_batch_size=1, batch_size=5
    ),
    "soft targets": with_a_teacher,
}


def train(name: str, runtime: Any) -> dict[str, Any]:
    return CASES[name](runtime)


if __name__ == "__main__":
    ranked.main(train, CASES)
