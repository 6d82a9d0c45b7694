"""The data types of a training run: its task, its state and its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn

from llm.data.batches import Batch, BatchSource
from llm.runtime.device import RuntimeConfig
from llm.train.config import TrainConfig
from llm.train.history import History
from llm.train.optim import AdamW
from llm.train.readings import Readings

if TYPE_CHECKING:
    from llm.train.ranks import Alone

Sums = dict[str, Tensor]  # by the name of the metric; training minimizes `loss`
Loss = Callable[[nn.Module, Batch], Sums]  # sums over targets; `Batch.count` is their number
Evaluation = Callable[[nn.Module], Mapping[str, float]]  # the means of a model, with `loss` among them


@dataclass(frozen=True)
class Task:
    """A model, its loss, and its data.

    `train[s]` is the batch of step s. It is read after s updates, so a source may compute batches from the current
    weights. The keys of `evaluations` are "train" and "val"; "train" may be missing. An evaluation is the mean of the
    loss over batches, or a function of the model, for what no loss can tell. `best`, `keep` and `patience` use the
    `loss` of "val".
    """

    model: nn.Module
    loss: Loss
    train: BatchSource
    evaluations: Mapping[str, BatchSource | Evaluation]
    section: str = "train"  # of params.yaml, for error messages


@dataclass
class Training:
    """The state of a run of `fit`, as callbacks see it."""

    task: Task
    config: TrainConfig
    runtime: RuntimeConfig
    optimizer: AdamW
    history: History
    planned: int  # updates, if the run does not end early
    model: nn.Module  # whose parameters are trained: the task's, or a copy that is divided over ranks
    loss: Loss  # to call with it
    ranks: Alone
    first_step: int = 0  # the step of the curve before any update; -1 in the book
    batch_loss: float = 0.0  # mean loss of the last update that was read
    gradient_norm: float = 0.0  # of that update, before clipping
    tokens_per_second: float = 0.0  # of the updates that were read last
    readings: Readings = field(default_factory=Readings)

    @property
    def step(self) -> int:
        """The current step of the curve."""
        return self.history.step + self.first_step

    @property
    def over(self) -> bool:
        """Whether all updates are done or `patience` has run out."""
        return self.history.step == self.planned or self.history.out_of_patience(self.config)


class Callback:
    """Methods that `fit` calls; by default they do nothing."""

    def on_start(self, training: Training) -> None:
        """Before the first evaluation. May load weights, optimizer and history of an earlier run."""

    def on_update(self, training: Training) -> None:
        """After an update, before the evaluation that follows it, if one is due."""

    def on_evaluation(self, training: Training) -> None:
        """After an evaluation. `training.history.last` is its row; a callback may add columns to it."""

    def on_step(self, training: Training) -> None:
        """After an update and the evaluation that follows it, if one is due."""

    def on_end(self, training: Training) -> None:
        """After the last update, before the best weights are restored."""
