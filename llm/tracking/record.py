"""The record of finished stages on this machine, `.work/runs/<stage>.jsonl`, and what `llm plan` expects of the next.

Nothing here enters an output or a report. MLflow shows the expectation beside what the stage took.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm.common import files
from llm.common.params import PARAMS
from llm.tracking import spool

RUNS, EXPECTED = Path(".work/runs"), Path(".work/expected.json")
KEPT = 20  # runs of a stage
MEGABYTE = 10**6


@dataclass(frozen=True)
class Past:
    """A finished run of a stage."""

    at: float  # seconds since 1970
    params: dict[str, Any]  # all of params.yaml
    seconds: float  # from the start of its process to the end
    memory: int  # bytes at the peak: of the process, or of the GPU
    read: dict[str, int]  # bytes of the data that it learned from, by path


@dataclass(frozen=True)
class Estimate:
    """What a stage is expected to take."""

    seconds: float
    memory: int | None  # bytes at the peak; None: unknown


def add(root: Path, stage: str, run: Past) -> None:
    """Add a run to the record."""
    path = root / RUNS / f"{stage}.jsonl"
    lines = spool.read(path).splitlines()[-KEPT + 1 :]
    files.write_text(path, "".join(f"{line}\n" for line in [*lines, json.dumps(asdict(run))]))


def past(root: Path, stage: str) -> list[Past]:
    """The recorded runs of a stage, newest first; lines that cannot be read are left out."""
    found = []
    for line in reversed(spool.read(root / RUNS / f"{stage}.jsonl").splitlines()):
        try:
            found.append(Past(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


def peak_memory() -> int:
    """The most bytes that this process has held, on the GPU if it used one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(held if sys.platform == "darwin" else held * 1024)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 if it is not there."""
    found = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in found if file.is_file())


Estimates = Mapping[str, Estimate | None]  # by stage, in the order in which they run; None: unknown


def expect(root: Path, estimates: Estimates) -> None:
    """Write down what the stages that run next are expected to take, for the present params.yaml."""
    stages = {name: one and asdict(one) for name, one in estimates.items()}
    files.write_text(root / EXPECTED, json.dumps({"params": files.sha256(root / PARAMS), "stages": stages}))


def expected(root: Path) -> Estimates:
    """What was written down, if params.yaml is still the same; else nothing."""
    try:
        found = json.loads((root / EXPECTED).read_text("utf-8"))
        if found["params"] == files.sha256(root / PARAMS):
            return {name: one and Estimate(**one) for name, one in found["stages"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    return {}


def left(estimates: Estimates, stage: str) -> str:
    """What to say as a stage starts: about how long it takes, and those after it; nothing if it was not planned."""
    if stage not in estimates:
        return ""
    names = list(estimates)
    here, after = estimates[stage], [estimates[name] for name in names[names.index(stage) + 1 :]]
    text = f"about {duration(here.seconds)}" if here else "of unknown time"
    if after:
        known = [one.seconds for one in after if one]
        text += f", then about {duration(sum(known))} for " if known else ", then "
        text += f"{len(known)} of " if 0 < len(known) < len(after) else ""
        text += f"{len(after)} more stage{'s' * (len(after) > 1)}"
    return text


def duration(seconds: float) -> str:
    """A time as text, to two digits: 40 s, 3.5 min, 2.0 h."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit == "min" and seconds >= 90):
            return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{max(1, round(seconds))} s"
