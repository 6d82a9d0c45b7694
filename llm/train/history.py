"""What a training run records of itself: its curve, the texts written along the way, the best weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from llm.train.optim import TrainConfig

COLUMNS = ("step", "tokens_seen", "train_loss", "val_loss", "lr")


@dataclass
class History:
    """How far a training run has come, and its curve: one row an evaluation, the first before any update."""

    step: int = 0  # updates done
    tokens_seen: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sequence[Any]] = field(default_factory=list)  # step, text
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # with keep best: what trains, at the row `best`
    planned: int = 0  # updates

    @property
    def last(self) -> dict[str, Any]:
        """The row after the last update."""
        return self.rows[-1]

    @property
    def best(self) -> dict[str, Any]:
        """The row with the lowest validation loss, the earliest of equal ones; it may be that before any update."""
        return min(self.rows, key=lambda row: float(row["val_loss"]))

    @property
    def best_val_loss(self) -> float:
        """The lowest validation loss of the curve."""
        return float(self.best["val_loss"])

    def kept(self, config: TrainConfig) -> dict[str, Any]:
        """The row of the weights that the run ended with."""
        return self.best if config.keep == "best" else self.last

    def ran_out(self, config: TrainConfig) -> bool:
        """Whether the last `patience` evaluations found no lower validation loss."""
        return config.patience is not None and len(self.rows) - 1 - self.rows.index(self.best) >= config.patience

    def losses(self, config: TrainConfig) -> dict[str, Any]:
        """What a stage reports: the losses of the weights it ends with, and which these are where that is open."""
        kept = self.kept(config)
        found = {"train_loss": kept["train_loss"], "val_loss": kept["val_loss"], "best_val_loss": self.best_val_loss}
        if config.keep == "best":
            found["kept_step"] = kept["step"]
        if config.patience is not None:
            found["stopped_early"] = self.step < self.planned
        return found

    def ending(self, config: TrainConfig) -> str:
        """Where the run ended, in words."""
        why = "" if self.step == self.planned else f": no lower validation loss in {config.patience} evaluations"
        weights = f"; the weights are those of step {self.best['step']}" if config.keep == "best" else ""
        return f"ended after {self.step} of {self.planned} updates{why}{weights}"

    def table(self, columns: Sequence[str] = COLUMNS) -> list[list[Any]]:
        """These columns of the rows."""
        return [[row[name] for name in columns] for row in self.rows]
