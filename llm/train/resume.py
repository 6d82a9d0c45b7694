"""Checkpoints of a training run, from which an interrupted run resumes.

A checkpoint is a folder `step-N` with the trainable weights, the optimizer's moments if more updates follow, the
history and, with `keep: best`, the best weights so far. Frozen weights are loaded from the starting point again. Batch
order, dropout and learning rate depend on the step only. A checkpoint is complete once its manifest exists, which is
written last. No pickle is used: loading a checkpoint runs no code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llm.common import code, params
from llm.common.errors import Terminated, UserError
from llm.common.files import dvc_md5, read_json, sha256, write_json, write_text
from llm.train.history import History
from llm.train.loop import load_trainable
from llm.train.optim import AdamW, trainable_parameters
from llm.train.task import Callback, Training
from llm.weights.tensors import read_tensors, write_tensors

WEIGHTS, MOMENTS, HISTORY, MANIFEST = "weights.safetensors", "moments.safetensors", "history.json", "manifest.json"
BEST = "best.safetensors"  # with keep: best
RUN = "run"  # the key of the fingerprint in HISTORY
KEPT = 2  # checkpoints; if the newest is damaged, the one before is loaded
T = TypeVar("T")


@contextmanager
def checkpoints(
    folder: Path,
    config: Any,
    inputs: Sequence[Path],
    save_every: int | None,
    say: Callable[[str], None],
    keep_moments: bool = False,
) -> Iterator[Callback]:
    """A callback for `fit` that saves checkpoints in `folder`, for a run with this `config`, `inputs` and code.

    Checkpoints of other runs are deleted. Inside the block, SIGTERM and SIGINT finish the current step, save it and
    stop the run; a second SIGINT stops at once. If `save_every` is None, nothing is saved and signals are not handled.
    `keep_moments` saves the moments after the last update too, for a callback that needs them.
    """
    if save_every is None:
        yield Callback()
        return
    run = fingerprint(config, inputs)
    mine = folder / hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
    others = [path for path in folder.glob("*") if path != mine]
    if others:
        say(f"parameters, data or code changed since the interrupted run{_changes(others, run)}: starting over")
        for path in others:
            shutil.rmtree(path)
    saved = TrainingCheckpoints(mine, save_every, say, run, keep_moments)
    in_main_thread = threading.current_thread() is threading.main_thread()  # the only one that may set handlers
    numbers = (signal.SIGTERM, signal.SIGINT) if in_main_thread else ()
    previous = {number: signal.signal(number, saved.on_signal) for number in numbers}
    try:
        yield saved
        saved.stop_if_asked()
    finally:
        if not saved.stop_signal:  # if the run stops, another signal must not interrupt the clean-up
            for number, handler in previous.items():
                signal.signal(number, handler)


def fingerprint(config: Any, inputs: Sequence[Path]) -> dict[str, str]:
    """The parameters of a run, except `save_every`, and hashes of its input files, the loaded code and torch."""
    values = {key: value for key, value in params.flat(config).items() if key.rpartition(".")[2] != "save_every"}
    return (
        {key: repr(value) for key, value in values.items()}
        | {path.as_posix(): dvc_md5(path) for path in inputs}
        | code.loaded()
        | {"torch": torch.__version__}
    )


def _changes(others: Sequence[Path], run: Mapping[str, str]) -> str:
    """The names that differ from the newest readable checkpoint of other runs, in brackets; else an empty text."""
    for path in sorted((path for other in others for path in other.glob(f"*/{HISTORY}")), reverse=True):
        try:
            theirs = read_json(path)[RUN]
            names = sorted(name for name in {*theirs, *run} if theirs.get(name) != run.get(name))
        except (UserError, OSError, KeyError, TypeError, AttributeError):  # damaged; it is deleted anyway
            continue
        return f" ({', '.join(names)})"
    return ""


@dataclass(eq=False)
class TrainingCheckpoints(Callback):
    """Saves a checkpoint after every `every` updates and after the last one, and keeps the two newest."""

    folder: Path
    every: int
    say: Callable[[str], None]
    run: Mapping[str, str] = field(default_factory=dict)  # the fingerprint
    keep_moments: bool = False
    stop_signal: int | None = field(default=None, init=False)  # the signal that asked the run to stop
    saved_step: int | None = field(default=None, init=False)  # of the newest checkpoint

    def on_start(self, training: Training) -> None:
        """Load the newest complete checkpoint into model, optimizer and history, if there is one."""
        for checkpoint in self._newest_first():
            try:
                training.history = _read(checkpoint, training.task.model, training.optimizer)
            except (UserError, OSError):  # a kill interrupted writing or deleting it, or it was damaged later
                self.say(f"the checkpoint {checkpoint} is incomplete: skipping it")
                shutil.rmtree(checkpoint)
                continue
            self.saved_step = training.history.step
            self.say(f"resuming after step {self.saved_step}")
            return

    def on_step(self, training: Training) -> None:
        """Save a checkpoint if it is due, and stop the run if a signal asked for it."""
        history = training.history
        if history.step % self.every == 0 or training.over or self.stop_signal:
            optimizer = None if training.over and not self.keep_moments else training.optimizer
            _write(self.folder / f"step-{history.step:09d}", history, training.task.model, optimizer, self.run)
            self.saved_step = history.step
            for old in self._newest_first()[KEPT:]:
                shutil.rmtree(old)
        self.stop_if_asked()

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Ask the run to stop; a second SIGINT does not wait for the end of the step."""
        if self.stop_signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_signal = self.stop_signal or number

    def stop_if_asked(self) -> None:
        """Raise the exception of the signal that asked the run to stop."""
        if self.stop_signal:
            saved = "" if self.saved_step is None else f"step {self.saved_step} is saved"
            raise KeyboardInterrupt(saved) if self.stop_signal == signal.SIGINT else Terminated(saved)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def _write(folder: Path, history: History, model: nn.Module, optimizer: AdamW | None, run: Mapping[str, str]) -> None:
    files = {WEIGHTS: _on_cpu({name: p.detach() for name, p in trainable_parameters(model).items()})}
    if optimizer is not None:
        files[MOMENTS] = _on_cpu(optimizer.state())
    if history.best_weights:
        files[BEST] = history.best_weights
    _in_parallel(lambda name: write_tensors(folder / name, files[name]), files)
    curve = {"step": history.step, "tokens_seen": history.tokens_seen, "rows": history.rows, "samples": history.samples}
    write_text(folder / HISTORY, json.dumps({**curve, RUN: run}, allow_nan=False))  # all digits; write_json rounds
    write_json(folder / MANIFEST, _hashes(folder))


def _read(folder: Path, model: nn.Module, optimizer: AdamW) -> History:
    if read_json(folder / MANIFEST) != _hashes(folder):
        raise UserError(str(folder), "does not match its manifest", "delete it")
    history = History(**{name: value for name, value in read_json(folder / HISTORY).items() if name != RUN})
    weights = read_tensors(folder / WEIGHTS)
    if (folder / MOMENTS).exists():
        optimizer.load(read_tensors(folder / MOMENTS), str(folder / MOMENTS))
    if (folder / BEST).exists():
        history.best_weights = {name: tensor.clone() for name, tensor in read_tensors(folder / BEST).items()}
    load_trainable(weights, model)
    return history


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _hashes(folder: Path) -> dict[str, str]:
    optional = [name for name in (MOMENTS, BEST) if (folder / name).exists()]
    return _in_parallel(lambda name: sha256(folder / name), (WEIGHTS, HISTORY, *optional))


def _in_parallel(function: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    """The result of `function` for each name; writing and hashing large files is faster in several threads."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(function, names), strict=True))
