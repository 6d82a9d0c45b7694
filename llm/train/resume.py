"""States of a training run on disk, so that a run that was killed goes on where it was.

A state is a folder `step-N` with the trainable weights, the optimizer's moments as long as there are updates to come,
and the history, and with keep best the best weights so far; what is frozen comes from the starting point again, batch
order, dropout and learning rate are functions of the step, and whether patience has run out is one of the history. The
manifest, renamed into place last, makes a state whole. No pickle: nothing in a state can run code.
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
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llm.common import code, params
from llm.common.errors import Terminated, UserError
from llm.common.files import dvc_md5, read_json, sha256, write_json, write_text
from llm.train.history import History
from llm.train.loop import load_trainable
from llm.train.optim import AdamW, trained
from llm.train.task import Callback, Training
from llm.weights.tensors import read_tensors, write_tensors

WEIGHTS, MOMENTS, HISTORY, MANIFEST = "weights.safetensors", "moments.safetensors", "history.json", "manifest.json"
BEST = "best.safetensors"  # with keep best only
NOT_ALWAYS = (MOMENTS, BEST)  # the manifest says which should be there
RUN = "run"  # the key of the history under which all stands that decides its run
KEPT = 2  # states; a damaged one is skipped for the one before
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
    """The callback of `fit` that saves states below `folder`, for this `config`, these `inputs` and this code only.

    States of other runs are removed. Within the block SIGTERM and SIGINT let the current step end, then save, then stop
    the run; a second SIGINT stops it at once. With `save_every` None nothing is saved, and signals act as usual.
    `keep_moments` keeps the optimizer's moments in the state after the last update, for a callback that needs them.
    """
    if save_every is None:
        yield Callback()
        return
    decides = what_decides(config, inputs)
    mine = folder / _name(decides)
    others = [path for path in folder.glob("*") if path != mine]
    if others:
        say(f"parameters, data or code changed since the interrupted run{_differing(others, decides)}: starting over")
        for path in others:
            shutil.rmtree(path)
    saved = TrainingCheckpoints(mine, save_every, say, decides, keep_moments)
    with _signals_to(saved):
        yield saved
        saved.stop_if_asked()


def what_decides(config: Any, inputs: Sequence[Path]) -> dict[str, str]:
    """The parameters of a run, its input files, our code as far as it is loaded, and torch.

    `save_every` is left out: it changes no result.
    """
    values = {key: value for key, value in params.flat(config).items() if key.rpartition(".")[2] != "save_every"}
    return (
        {key: repr(value) for key, value in values.items()}
        | {path.as_posix(): dvc_md5(path) for path in inputs}
        | code.loaded()
        | {"torch": torch.__version__}
    )


def _name(decides: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _differing(others: Sequence[Path], decides: Mapping[str, str]) -> str:
    """What differs from the newest of other runs, in brackets; nothing where that cannot be told."""
    for path in sorted((path for run in others for path in run.glob(f"*/{HISTORY}")), reverse=True):
        try:
            theirs = read_json(path)[RUN]
            names = sorted(name for name in {*theirs, *decides} if theirs.get(name) != decides.get(name))
        except (UserError, OSError, KeyError, TypeError, AttributeError):  # damaged: it goes anyway
            continue
        return f" ({', '.join(names)})"
    return ""


class TrainingCheckpoints(Callback):
    """The states of one run, one folder each; the two newest are kept."""

    def __init__(
        self,
        folder: Path,
        every: int,
        say: Callable[[str], None],
        decides: Mapping[str, str] = MappingProxyType({}),
        keep_moments: bool = False,
    ) -> None:
        self.folder, self.every, self._say, self._decides = folder, every, say, dict(decides)
        self._keep_moments = keep_moments
        self._saved: int | None = None  # the step of the newest state
        self._stop: int | None = None  # the signal that asks the run to stop

    def on_start(self, training: Training) -> None:
        """Load the newest complete state into model, optimizer and history, if there is one."""
        for state in self._newest_first():
            try:
                training.history = _read(state, training.task.model, training.optimizer)
            except (UserError, OSError):  # killed while it was written or removed, or damaged since
                self._say(f"the state {state} is incomplete: skipping it")
                shutil.rmtree(state)
                continue
            self._saved = training.history.step
            self._say(f"resuming after step {self._saved}")
            return

    def on_step(self, training: Training) -> None:
        """Save a state if it is due, and stop the run if a signal asked for it."""
        history = training.history
        if history.step % self.every == 0 or training.over or self.stopping:
            state = self.folder / f"step-{history.step:09d}"
            optimizer = None if training.over and not self._keep_moments else training.optimizer
            _write(state, history, training.task.model, optimizer, self._decides)
            self._saved = history.step
            for old in self._newest_first()[KEPT:]:
                shutil.rmtree(old)
        self.stop_if_asked()

    def on_signal(self, number: int, _frame: FrameType | None) -> None:
        """Note that the run shall stop; a second SIGINT does not wait for the step to end."""
        if self.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._stop = self._stop or number

    @property
    def stopping(self) -> bool:
        """Whether a signal has asked the run to stop."""
        return self._stop is not None

    def stop_if_asked(self) -> None:
        """Raise what the signal would have raised at once."""
        if self.stopping:
            saved = "" if self._saved is None else f"step {self._saved} is saved"
            raise KeyboardInterrupt(saved) if self._stop == signal.SIGINT else Terminated(saved)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def _write(state: Path, history: History, model: nn.Module, optimizer: AdamW | None, decides: dict[str, str]) -> None:
    files = {WEIGHTS: _on_cpu({name: p.detach() for name, p in trained(model).items()})}
    if optimizer is not None:
        files[MOMENTS] = _on_cpu(optimizer.state())
    if history.best_weights:
        files[BEST] = history.best_weights
    _at_once(lambda name: write_tensors(state / name, files[name]), files)
    curve = {"step": history.step, "tokens_seen": history.tokens_seen, "rows": history.rows, "samples": history.samples}
    write_text(state / HISTORY, json.dumps({**curve, RUN: decides}, allow_nan=False))  # every digit: write_json rounds
    write_json(state / MANIFEST, _hashes(state))


def _read(state: Path, model: nn.Module, optimizer: AdamW) -> History:
    if read_json(state / MANIFEST) != _hashes(state):
        raise UserError(str(state), "does not fit its manifest", "remove it")
    history = History(**{name: value for name, value in read_json(state / HISTORY).items() if name != RUN})
    weights = read_tensors(state / WEIGHTS)
    if (state / MOMENTS).exists():
        optimizer.load(read_tensors(state / MOMENTS), str(state / MOMENTS))
    if (state / BEST).exists():
        history.best_weights = {name: tensor.clone() for name, tensor in read_tensors(state / BEST).items()}
    load_trainable(weights, model)
    return history


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _hashes(state: Path) -> dict[str, str]:
    there = [name for name in NOT_ALWAYS if (state / name).exists()]
    return _at_once(lambda name: sha256(state / name), (WEIGHTS, HISTORY, *there))


def _at_once(do: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    """What `do` returns for each; large files are written and hashed side by side, which takes less time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(do, names), strict=True))


@contextmanager
def _signals_to(saved: TrainingCheckpoints) -> Iterator[None]:
    """Let `saved` note SIGTERM and SIGINT; only the main thread may ask for that.

    Once a run is to stop, that stays so: another signal shall not break off the clean-up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, saved.on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items() if not saved.stopping else ():
            signal.signal(number, handler)
