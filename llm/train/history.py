"""The record of a training run: its loss curve, the sampled texts and the best weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from llm.train.config import TrainConfig

COLUMNS = ("step", "tokens_seen", "train_loss", "val_loss", "lr")
SAMPLE_COLUMNS = ("step", "text")


@dataclass
class History:
    """The progress of a run and its curve: one row per evaluation, the first before any update."""

    step: int = 0  # updates done
    tokens_seen: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Sequence[Any]] = field(default_factory=list)  # (step, text)
    measured: list[dict[str, float]] = field(default_factory=list)  # by `Measures`, at each update since the last row
    best_weights: dict[str, Tensor] = field(default_factory=dict)  # only with keep: best; trainable weights at `best`
    planned: int = 0  # updates, if the run does not end early

    @property
    def last(self) -> dict[str, Any]:
        return self.rows[-1]

    @property
    def best(self) -> dict[str, Any]:
        """The first row with the lowest validation loss; it may be the one before any update."""
        return min(self.rows, key=lambda row: float(row["val_loss"]))

    @property
    def best_val_loss(self) -> float:
        return float(self.best["val_loss"])

    def kept(self, config: TrainConfig) -> dict[str, Any]:
        """The row that belongs to the final weights."""
        return self.best if config.keep == "best" else self.last

    def out_of_patience(self, config: TrainConfig) -> bool:
        """Whether the last `patience` evaluations found no lower validation loss."""
        return config.patience is not None and len(self.rows) - 1 - self.rows.index(self.best) >= config.patience

    def losses(self, config: TrainConfig) -> dict[str, Any]:
        """The losses of the final weights, as metrics of a stage."""
        kept = self.kept(config)
        metrics = {"train_loss": kept["train_loss"], "val_loss": kept["val_loss"], "best_val_loss": self.best_val_loss}
        if config.keep == "best":
            metrics["kept_step"] = kept["step"]
        if config.patience is not None:
            metrics["stopped_early"] = self.step < self.planned
        return metrics

    def ending(self, config: TrainConfig) -> str:
        """A message on how the run ended."""
        why = "" if self.step == self.planned else f": no lower validation loss in {config.patience} evaluations"
        weights = f"; the weights are those of step {self.best['step']}" if config.keep == "best" else ""
        cold = f"; warmup_steps is {config.warmup_steps}: the learning rate never rose to {config.lr:g}"
        cold = cold if self.planned <= config.warmup_steps else ""
        return f"ended after {self.step} of {self.planned} updates{why}{weights}{cold}"

    def table(self, columns: Sequence[str] = COLUMNS) -> list[list[Any]]:
        return [[row[name] for name in columns] for row in self.rows]
