"""What is trained, how far it is, and who hears of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from llm.data.batches import Batch, BatchSource
from llm.runtime.device import RuntimeConfig
from llm.train.history import History
from llm.train.optim import AdamW, TrainConfig

Sums = dict[str, Tensor]  # by the name of the measure; `loss` is what training brings down
Loss = Callable[[nn.Module, Batch], Sums]  # sums over the targets that count; the count comes from the batch


@dataclass(frozen=True)
class Task:
    """A model, its loss, and its data.

    `train` gives the batch of each step. It is asked for step s when s updates are done, so a source may also compute
    its batches from the weights as they are then. `evaluations` are "train" and "val".
    """

    model: nn.Module
    loss: Loss
    train: BatchSource
    evaluations: Mapping[str, BatchSource]
    section: str = "train"  # of params.yaml: where errors point to


@dataclass
class Training:
    """The state of a run of `fit`, as callbacks see it."""

    task: Task
    config: TrainConfig
    runtime: RuntimeConfig
    optimizer: AdamW
    history: History
    planned: int  # updates, if the run does not end early
    first_step: int = 0  # of the curve, before any update; the book counts from -1
    batch_loss: float = 0.0  # of the last update: its mean loss
    tokens_per_second: float = 0.0  # and its speed

    @property
    def step(self) -> int:
        """The step of the curve after the updates so far."""
        return self.history.step + self.first_step

    @property
    def over(self) -> bool:
        """Whether this was the last update: all are done, or patience has run out."""
        return self.history.step == self.planned or self.history.ran_out(self.config)


class Callback:
    """Hears of a training. Every method may be left as it is."""

    def on_start(self, training: Training) -> None:
        """Before the first evaluation; may load weights, optimizer and history of an earlier run."""

    def on_evaluation(self, training: Training) -> None:
        """After an evaluation; `training.history.last` is its row."""

    def on_step(self, training: Training) -> None:
        """After an update and the evaluation that follows it, if one is due."""

    def on_end(self, training: Training) -> None:
        """After the last update, before the best weights are restored."""
