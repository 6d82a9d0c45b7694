"""The report at the end of `llm repro`: the results in reports/, a sample text and what to try next."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm.cli import baseline
from llm.cli.program import program
from llm.common import files, params

REPORTS = Path("reports")


def lines() -> list[str]:
    """One line per result of each stage that has run, the sample text, and the next commands."""
    found = [f"{stage:<13} {name:<42} {value}" for stage, name, value in _results()]
    sample = _last_sample()
    if sample:
        found += ["", f"The model writes: {sample!r}"]
    found += _origin()
    width = len(program()) + 8
    found += ["", "Next:", f"  {program() + ' ui':<{width}}see all runs in the MLflow UI"]
    found += [f"  {program() + ' chat':<{width}}give instructions to your model"]
    found += [f"  edit params.yaml, then: {program()} repro && {program()} compare"]
    hint = _precision_hint()
    return [*found, "", hint] if hint else found


def _origin() -> list[str]:
    """Say if the figures were not computed here, or if this machine computes other bytes than the committed ones."""
    shown = ("pretrain", "finetune_spam", "finetune_instruct", "evaluate_with_judge")
    missing = baseline.not_computed(tuple(stage for stage in shown if _metrics(stage)))
    if missing:
        return ["", f"Not computed here, but from git: {', '.join(missing)}. `{program()} repro` computes them."]
    if differing := baseline.differing():
        text = f"{len(differing)} outputs differ from the committed ones: this machine computes other bytes. "
        return ["", f"{text}`{program()} baseline` makes these figures the ones to compare with."]
    return []


def _results() -> Iterator[tuple[str, str, str]]:
    if pretrain := _metrics("pretrain"):
        yield "pretraining", "loss, training / validation", _pair(pretrain, "train_loss", "val_loss", ".3f")
        yield "", "validation bits per byte", f"{pretrain['val_bits_per_byte']:.3f}"
    if spam := _metrics("finetune_spam"):
        yield "spam", "accuracy, training / test", _pair(spam, "train_accuracy", "test_accuracy", ".1%")
    if instruct := _metrics("finetune_instruct"):
        yield "instructions", "loss, training / validation", _pair(instruct, "train_loss", "val_loss", ".3f")
    if (judge := _metrics("evaluate_with_judge")) and judge["score_mean"] is not None:
        shown = f"{judge['score_mean']:.1f} of 100"
        if judge["score_ci95_low"] is not None:  # one score has no interval
            shown += f" ({judge['score_ci95_low']:.1f} to {judge['score_ci95_high']:.1f})"
        yield "judge", f"{judge['backend']} score of {judge['n_scored']} of {judge['n_items']} answers", shown


def _metrics(stage: str) -> dict[str, Any] | None:
    path = REPORTS / stage / "metrics.json"
    return files.read_json(path) if path.is_file() else None


def _pair(metrics: dict[str, Any], first: str, second: str, form: str) -> str:
    return f"{metrics[first]:{form}} / {metrics[second]:{form}}"


def _last_sample() -> str | None:
    path = REPORTS / "pretrain" / "samples.csv"
    if not path.is_file():
        return None
    return list(csv.DictReader(io.StringIO(files.read_text(path))))[-1]["text"]


def _precision_hint() -> str | None:
    from llm.runtime.device import RuntimeConfig, cpu_has_bf16

    config = params.parse(RuntimeConfig, params.load().get("runtime"), "params.yaml: runtime")
    if (config.precision, config.device) == ("fp32", "cpu") and cpu_has_bf16():
        return f"This CPU multiplies bf16 in hardware: `{program()} use auto` makes training faster."
    return None
