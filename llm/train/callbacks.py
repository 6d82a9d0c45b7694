"""Callbacks of `fit`: progress, samples, the optimizer. Saved states are in resume.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from llm.train.task import Callback, Training
from llm.weights.tensors import read_tensors, write_tensors


class Reporter(Protocol):
    """Shows progress and curves to a person."""

    def progress(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        """One update is done."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """A point of every curve in `values`."""


class Progress(Callback):
    """Reports every update, and every row of the curve; after a resume also the rows from before it."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter, self._reported = reporter, 0

    def on_step(self, training: Training) -> None:
        """Report the update."""
        speed = training.tokens_per_second
        self.reporter.progress(training.history.step, training.planned, training.batch_loss, speed)

    def on_evaluation(self, training: Training) -> None:
        """Report the rows that are new."""
        rows = training.history.rows
        for row in rows[self._reported :]:
            self.reporter.metrics(_curves(row), row["step"])
        self._reported = len(rows)

    on_end = on_evaluation


class Samples(Callback):
    """Adds texts that `write` returns to the history, labelled with the step of the curve.

    `due` says after how many updates; None: at every evaluation. The last update always gets one.
    """

    def __init__(self, write: Callable[[], str], due: Callable[[int], bool] | None = None) -> None:
        self.write, self.due = write, due

    def on_evaluation(self, training: Training) -> None:
        """Write a sample if every evaluation has one."""
        if self.due is None:
            self._add(training)

    def on_step(self, training: Training) -> None:
        """Write a sample if it is due."""
        if self.due is not None and (self.due(training.history.step) or training.over):
            self._add(training)

    def _add(self, training: Training) -> None:
        training.history.samples.append((training.step, self.write()))


class SaveOptimizer(Callback):
    """Writes AdamW's moments at the end (section 5.4), as NAME.exp_avg, NAME.exp_avg_sq and NAME.step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_end(self, training: Training) -> None:
        """Write the file."""
        write_tensors(self.path, {name: t.cpu().contiguous() for name, t in training.optimizer.state().items()})


class WarmStart(Callback):
    """Starts with the moments that `SaveOptimizer` wrote for the same weights (exercise 5.4)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, training: Training) -> None:
        """Load the moments; raises UserError if they are not of these weights."""
        training.optimizer.load(read_tensors(self.path), str(self.path))


def _curves(row: Mapping[str, Any]) -> dict[str, float]:
    """A row as points of curves: `train_loss` is the curve `train` of the figure `loss`."""
    return {re.sub(r"^(train|val)_(.+)", r"\2/\1", name): value for name, value in row.items() if name != "step"}
