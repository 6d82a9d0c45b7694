"""Checkpoints of a training run, from which an interrupted run resumes.

A checkpoint is a folder `step-N` with the trainable weights, the optimizer's moments if more updates follow, the
history and, with `keep: best`, the best weights so far. Frozen weights are loaded from the starting point again. Batch
order, dropout and learning rate depend on the step only. A checkpoint is complete once its manifest exists, which is
written last. No pickle is used: loading a checkpoint runs no code.

Where each rank has a part of the weights and moments, each writes a file `weights-R-of-N.safetensors` with its part.
They can be loaded on another number of ranks.
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
from torch import Tensor

from llm.common import code, params
from llm.common.errors import DATA, Terminated, UserError
from llm.common.files import dvc_md5, read_json, sha256, write_json, write_text
from llm.common.ranks import is_first
from llm.train.divided import Joined, part
from llm.train.history import History
from llm.train.loop import load_trainable, read_updates
from llm.train.task import Callback, Training
from llm.weights.tensors import read_tensors, write_tensors

WEIGHTS, MOMENTS, HISTORY, MANIFEST = "weights.safetensors", "moments.safetensors", "history.json", "manifest.json"
BEST = "best.safetensors"  # with keep: best
RUN = "run"  # the key of the fingerprint in HISTORY
RANKS = "ranks"  # the key of `_ranks` in HISTORY
FREE = {"save_every", "ranks", "sharding"}  # parameters that a resumed run may change
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
    together: int = 1,
) -> Iterator[Callback]:
    """A callback for `fit` that saves checkpoints in `folder`, for a run with this `config`, `inputs` and code.

    Checkpoints of other runs are deleted. Inside the block, SIGTERM and SIGINT finish the current step, save it and
    stop the run; a second SIGINT stops at once. If `save_every` is None, nothing is saved and signals are not handled.
    `keep_moments` saves the moments after the last update too, for a callback that needs them. Within each `together`
    updates, such as those from one set of sampled answers, nothing is saved, and a signal waits for the last of them;
    `save_every` is a multiple of it. Raises UserError if a file is in place of the folder.
    """
    if save_every is None:
        yield Callback()
        return
    run = fingerprint(config, inputs)
    mine = folder / hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
    for path in (folder, mine):
        if path.exists() and not path.is_dir():
            raise UserError(str(path), "is not a folder, but saved states go there", "move it away", DATA)
    others = [path for path in folder.glob("*/") if path != mine]  # folders: a file manager may have left a file
    if others and is_first():
        say(f"parameters, data or code changed since the interrupted run{_changes(others, run)}: starting over")
        for path in others:
            _remove(path)
    saved = TrainingCheckpoints(mine, save_every, say, run, keep_moments, together)
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
    """The parameters of a run, except those in FREE, and hashes of its input files, the loaded code and torch."""
    values = {key: value for key, value in params.flat(config).items() if key.rpartition(".")[2] not in FREE}
    code.recall()
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
    together: int = 1
    stop_signal: int | None = field(default=None, init=False)  # the signal that asked the run to stop
    saved_step: int | None = field(default=None, init=False)  # of the newest checkpoint

    def on_start(self, training: Training) -> None:
        """Load the newest complete checkpoint into model, optimizer and history, if there is one."""
        first = training.ranks.rank == 0
        found = self._load_newest() if first else None
        step = training.ranks.highest(found.history.step if found else -1)
        if step < 0:
            return
        found = found or _read(self._at(step))
        found.restore(training)
        self.saved_step = step
        self.say(f"resuming after step {step}")
        if found.ranks != _ranks(training):
            self.say(f"it was saved on {found.ranks}: the weights will not be those of an unbroken run, bit for bit")

    def on_step(self, training: Training) -> None:
        """Save a checkpoint if it is due, and stop the run if a signal asked for it."""
        history = training.history
        if history.step % self.together and not training.over:
            return
        look = training.ranks.size == 1 or training.over or history.step % training.runtime.log_every == 0
        stop = training.ranks.highest(self.stop_signal or 0) if look else 0  # all ranks stop at the same step
        if history.step % self.every == 0 or training.over or stop:
            read_updates(training)
            _write(self._at(history.step), training, not training.over or self.keep_moments, self.run)
            self.saved_step = history.step
            if training.ranks.rank == 0:
                for old in self._newest_first()[KEPT:]:
                    _remove(old)
        if stop:
            self.stop_signal = stop
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

    def _load_newest(self) -> _Saved | None:
        for checkpoint in self._newest_first():
            try:
                return _read(checkpoint)
            except (UserError, OSError, KeyError):  # a kill interrupted writing or deleting it, or it was damaged later
                self.say(f"the checkpoint {checkpoint} is incomplete: skipping it")
                _remove(checkpoint)
        return None

    def _at(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}"

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


@dataclass(frozen=True)
class _Saved:
    """What a checkpoint holds."""

    history: History
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] | None
    ranks: str  # as `_ranks` names them

    def restore(self, training: Training) -> None:
        """Load it into model, optimizer and history; called by all ranks."""
        if self.moments is not None:
            training.optimizer.load(self.moments, MOMENTS)
        load_trainable(self.weights, training.task.model)
        training.ranks.scatter(training.task.model)
        training.history = self.history


def _write(folder: Path, training: Training, with_moments: bool, run: Mapping[str, str]) -> None:
    """Write a checkpoint; all ranks call it. The first one writes all, except the parts that others have."""
    history, ranks = training.history, training.ranks
    files: dict[str, Mapping[str, Tensor]] = {}
    if ranks.sharded or ranks.rank == 0:
        # not those of the model: after an evaluation, FSDP has put whole tensors in place of some of its parts
        files[WEIGHTS] = {name: p.detach() for name, p in training.optimizer.weights.items()}
        if with_moments:
            files[MOMENTS] = training.optimizer.state()
    if ranks.sharded:
        files = {_of_rank(name, ranks.rank, ranks.size): tensors for name, tensors in files.items()}
    if history.best_weights and ranks.rank == 0:
        files[BEST] = history.best_weights
    on_cpu = {name: _on_cpu(tensors) for name, tensors in files.items()}
    _in_parallel(lambda name: write_tensors(folder / name, on_cpu[name]), on_cpu)
    ranks.highest(0)  # wait until all have written
    if ranks.rank:
        return
    names = ("step", "tokens_seen", "rows", "samples", "measured")
    curve = {name: getattr(history, name) for name in names} | {RUN: run, RANKS: _ranks(training)}
    write_text(folder / HISTORY, json.dumps(curve, allow_nan=False))  # all digits; write_json rounds
    write_json(folder / MANIFEST, _hashes(folder))


def _read(folder: Path) -> _Saved:
    if read_json(folder / MANIFEST) != _hashes(folder):
        raise UserError(str(folder), "does not match its manifest", "delete it")
    stored = read_json(folder / HISTORY)
    ranks = stored.pop(RANKS)
    del stored[RUN]
    history = History(**stored)
    if (folder / BEST).exists():
        history.best_weights = {name: tensor.clone() for name, tensor in read_tensors(folder / BEST).items()}
    return _Saved(history, _stored(folder, WEIGHTS) or {}, _stored(folder, MOMENTS), ranks)


def _remove(checkpoint: Path) -> None:
    """Delete a folder, or what is there in place of one."""
    if checkpoint.is_dir() and not checkpoint.is_symlink():
        shutil.rmtree(checkpoint)
    else:
        checkpoint.unlink()


def _of_rank(name: str, rank: int, size: int) -> str:
    """The name of the file with the part of a rank."""
    return name.replace(".", f"-{rank:04}-of-{size:04}.")


def _stored(folder: Path, name: str) -> Mapping[str, Tensor] | None:
    """The tensors of a file, or of the files of all ranks; None if there is none."""
    parts = sorted(folder.glob(_of_rank(name, 0, 0).replace("0000", "*")))
    files = parts or [path for path in (folder / name,) if path.exists()]
    return Joined([read_tensors(path) for path in files]) if files else None


def _ranks(training: Training) -> str:
    """How the run was divided: decides the last bits, but not whether a checkpoint can be used."""
    size = training.ranks.size
    return "1 rank" if size == 1 else f"{size} ranks ({training.runtime.sharding})"


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: part(tensor).cpu().contiguous() for name, tensor in tensors.items()}


def _hashes(folder: Path) -> dict[str, str]:
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    return _in_parallel(lambda name: sha256(folder / name), (HISTORY, *names))


def _in_parallel(function: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    """The result of `function` for each name; writing and hashing large files is faster in several threads."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(function, names), strict=True))
