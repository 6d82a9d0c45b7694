"""The time and the memory that the stages of a plan are expected to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from llm.common import code, params
from llm.common.dvc_lock import lookup
from llm.common.errors import UserError
from llm.plan.stages import Planned
from llm.plan.work import Work, work
from llm.tracking import record
from llm.tracking.record import Estimate, Past
from stages.schema import AllParams

UNKNOWN = "its data is not there yet"
CACHED = 1.0  # seconds to take outputs from the cache
START = 4.0  # seconds to start a stage with torch; the others take half of it
MB = 1e6
# Bytes of input a second, without a run to compare with. They are the order of magnitude on one core of a laptop.
RATES = {"download": 100 * MB, "tokenizer": 0.3 * MB, "tokenize": 2 * MB, "import_gpt2": 100 * MB}
# Parameters that change the result, not the time.
TIMELESS = set("seed lr schedule warmup_steps warmup_from decay_to weight_decay beta2 sample_prompt".split())


@dataclass(frozen=True)
class Expected:
    """A planned stage with its estimate."""

    planned: Planned
    estimate: Estimate | None  # None: unknown
    basis: str  # what the estimate is from


@dataclass
class Estimator:
    """Estimates stage by stage; the machine's speed is measured at most once."""

    root: Path
    everything: AllParams
    _speed: float | None = None
    _now: Mapping[str, Any] = field(default_factory=params.load)

    def expect(self, stages: Sequence[Planned]) -> list[Expected]:
        return [self._one(stage) for stage in stages]

    def _one(self, stage: Planned) -> Expected:
        if stage.cached:
            return Expected(stage, Estimate(CACHED, None), "its outputs are in the cache")
        todo, runs = work(stage.name, self.everything), record.past(self.root, stage.name)
        for run in runs:
            if self._same(stage, run, todo) and _grown(run) == 1:
                return Expected(stage, Estimate(run.seconds, run.memory), f"the run of {_day(run)}")
        for run in runs:
            if like := self._like(stage.name, run, todo):
                return Expected(stage, *like)
        return self._by_size(stage) if todo is None else self._measured(stage, todo)

    def _same(self, stage: Planned, run: Past, todo: Work | None) -> bool:
        """Whether the run had the parameters of now, but for those that change no time, and the same work.

        The shape of the model that a fine-tuning starts from is none of its parameters, but changes its work.
        """
        pairs = [(lookup(run.params, key), lookup(self._now, key)) for key in stage.keys]
        if not all(_timeful(before) == _timeful(now) for before, now in pairs):
            return False
        if todo is None:
            return True
        _, before = _then(stage.name, run)
        return before is not None and (before.operations, before.memory) == (todo.operations, todo.memory)

    def _like(self, stage: str, run: Past, todo: Work | None) -> tuple[Estimate, str] | None:
        """From a run with other parameters or data, by the ratio of the work."""
        if todo is None:
            return Estimate(run.seconds, run.memory), f"the run of {_day(run)}"
        then, before = _then(stage, run)
        if then is None or before is None or then.runtime != self.everything.runtime:
            return None
        ratio = todo.operations / before.operations * _grown(run)
        seconds = START + max(run.seconds - START, 0.0) * ratio
        memory = max(run.memory + todo.memory - before.memory, todo.memory // 2)
        return Estimate(seconds, memory), f"the run of {_day(run)}, times {ratio:.2g}"

    def _measured(self, stage: Planned, todo: Work) -> Expected:
        """By the speed of some training steps on this machine."""
        if self._speed is None:
            from llm.plan import calibration

            works = (work(name, self.everything) for name in ("pretrain", "finetune_instruct", "finetune_spam"))
            training = todo.training or next((found.training for found in works if found and found.training), None)
            self._speed = calibration.speed(training, self.everything.pretrain) if training else None
        if self._speed is None:
            return Expected(stage, None, UNKNOWN)
        seconds = START + todo.operations / self._speed
        return Expected(stage, Estimate(seconds, todo.memory), f"steps at {self._speed / 1e9:,.0f} GFLOP/s")

    def _by_size(self, stage: Planned) -> Expected:
        """By the size of the inputs that are there, or a fixed time."""
        name = stage.name.partition("@")[0]
        size = sum(record.size(Path(path)) for path in stage.inputs if not path.startswith(code.LISTS))
        if name in RATES:
            guess = f"a guess by size, {size / MB:,.1f} MB"
            return Expected(stage, Estimate(START / 2 + size / RATES[name], None), guess)
        if name == "check" or (name == "evaluate_with_judge" and self.everything.judge.backend == "reference"):
            return Expected(stage, Estimate(START, None), "a guess")
        return Expected(stage, None, UNKNOWN)


def _then(stage: str, run: Past) -> tuple[AllParams | None, Work | None]:
    """The parameters of a run, and the work that it had; None if they are those of another version."""
    try:
        everything = params.parse(AllParams, run.params)
    except UserError:
        return None, None
    return everything, work(stage, everything)


def _grown(run: Past) -> float:
    """By how much the data that a run read has grown since."""
    now = sum(record.size(Path(path)) for path in run.read)
    before = sum(run.read.values())
    return now / before if now and before else 1.0


def _timeful(values: Any) -> Any:
    """The values without those that change no time."""
    return {k: v for k, v in values.items() if k not in TIMELESS} if isinstance(values, Mapping) else None


def _day(run: Past) -> str:
    return date.fromtimestamp(run.at).isoformat()
