"""Callbacks of `fit`: progress, samples and saving the optimizer. Checkpoints are in resume.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from llm.train.divided import all_whole
from llm.train.loop import read_updates
from llm.train.task import Callback, Training
from llm.weights.tensors import read_tensors, write_tensors


class Reporter(Protocol):
    """Receives the progress and the curves of a run."""

    def progress(self, step: int, steps: int, loss: float, tokens_per_second: float) -> None:
        """Report one update."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve in `values`."""


class Progress(Callback):
    """Reports every update and every row of the curve; after resuming, also the rows of the interrupted run."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter, self._reported = reporter, 0

    def on_step(self, training: Training) -> None:
        speed = training.tokens_per_second
        self.reporter.progress(training.history.step, training.planned, training.batch_loss, speed)

    def on_evaluation(self, training: Training) -> None:
        rows = training.history.rows
        for row in rows[self._reported :]:
            self.reporter.metrics(_curves(row), row["step"])
        self._reported = len(rows)

    on_end = on_evaluation


class Measures(Callback):
    """Adds to each row of the curve the means of what `measure` returned after each update since the row before.

    Loss and gradient norm of the update are read first, whatever `runtime.log_every` is.
    The row before any update has what `before` returns. Place it before callbacks that read the rows.
    """

    def __init__(self, measure: Callable[[Training], dict[str, float]], before: Callable[[], dict[str, float]]) -> None:
        self.measure, self.before = measure, before

    def on_update(self, training: Training) -> None:
        read_updates(training)
        training.history.measured.append(self.measure(training))

    def on_evaluation(self, training: Training) -> None:
        history = training.history
        found, history.measured = history.measured or [self.before()], []
        history.last.update({name: sum(each[name] for each in found) / len(found) for name in found[0]})


class Samples(Callback):
    """Adds the text that `write` returns to the history, with the step of the curve.

    Without `due`, it adds one at every evaluation; else if `due(updates)` is true, and after the last update.
    """

    def __init__(self, write: Callable[[], str], due: Callable[[int], bool] | None = None) -> None:
        self.write, self.due = write, due

    def on_evaluation(self, training: Training) -> None:
        if self.due is None:
            self._add(training)

    def on_step(self, training: Training) -> None:
        if self.due is not None and (self.due(training.history.step) or training.over):
            self._add(training)

    def _add(self, training: Training) -> None:
        training.ranks.gather(training.task.model)
        training.history.samples.append((training.step, self.write() if training.ranks.rank == 0 else ""))


class SaveOptimizer(Callback):
    """Saves the moments of AdamW at the end of training (section 5.4)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_end(self, training: Training) -> None:
        moments = all_whole(training.optimizer.state())
        if training.ranks.rank == 0:
            write_tensors(self.path, {name: t.cpu().contiguous() for name, t in moments.items()})


class WarmStart(Callback):
    """Loads the moments that `SaveOptimizer` saved with the same weights (exercise 5.4)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, training: Training) -> None:
        training.optimizer.load(read_tensors(self.path), str(self.path))


def _curves(row: Mapping[str, Any]) -> dict[str, float]:
    """Rename the columns of a row for the tracker: `train_loss` is the curve `train` of the chart `loss`."""
    return {re.sub(r"^(train|val)_(.+)", r"\2/\1", name): value for name, value in row.items() if name != "step"}
