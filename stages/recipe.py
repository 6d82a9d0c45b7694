"""What the trainings of all stages have in common: the check for room, the batches, the saved states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from llm.data.ahead import prepared
from llm.data.batches import Buckets, Dataset, ShuffledBatches, steps_per_epoch
from llm.model import memory
from llm.runtime.device import RuntimeConfig
from llm.train import resume
from llm.train.callbacks import Progress
from llm.train.config import TrainConfig
from llm.train.history import History
from llm.train.loop import evaluation_batches, fit
from llm.train.ranks import Alone
from llm.train.task import Callback, Loss, Task
from stages.run import Run


@dataclass(frozen=True)
class Recipe:
    """How a stage trains a model with the settings of a section of params.yaml."""

    run: Run
    section: str  # for error messages
    config: TrainConfig
    runtime: RuntimeConfig
    seed: int

    def steps(self, train: Dataset) -> int:
        """The updates of all epochs."""
        return self.config.epochs * steps_per_epoch(len(train), self.config.batch_size)

    def check_room(self, training: memory.Training, steps: int, extra: int = 0) -> None:
        """Refuse a training that does not fit into memory or, with `extra` bytes of further files, on the disk."""
        memory.check_training(self.section, training, self.run.work, steps, self.config.save_every, extra)

    def task(
        self, model: nn.Module, loss: Loss, train: Dataset, val: Dataset, steps: int, buckets: Buckets | None = None
    ) -> Task:
        """`steps` shuffled batches of `train`, and evaluations on both data sets."""
        where = f"{self.section}.batch_size"
        batches = ShuffledBatches(train, self.config.batch_size, steps, self.seed, where, buckets)
        evaluations = evaluation_batches(train, val, self.config)
        return Task(model, loss, prepared(batches, self.runtime.device), evaluations, self.section)

    def train(
        self,
        task: Task,
        inputs: Sequence[Path],
        callbacks: Sequence[Callback] = (),
        ranks: Alone | None = None,
        **saving: Any,
    ) -> History:
        """Train, or go on from the saved state of a run with the same `inputs`, and say how it ended.

        `saving` are further settings of `resume.checkpoints`.
        """
        run, config = self.run, self.config
        with resume.checkpoints(run.states, run.settings, inputs, config.save_every, run.say, **saving) as states:
            history = fit(task, config, self.runtime, self.seed, [*callbacks, Progress(run), states], ranks)
        run.say(history.ending(config))
        return history
