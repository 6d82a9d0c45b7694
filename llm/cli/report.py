"""The report at the end of `llm repro`: the results in reports/, a sample text and what to try next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm.cli import baseline
from llm.cli.program import program
from llm.common import params
from llm.compare import changes
from llm.compare.snapshot import REPORTS, WORKSPACE, Snapshot

MISSING = "–"
SHOWN = ("pretrain", "finetune_spam", "finetune_instruct", "evaluate_with_judge")  # stages with figures here


def lines() -> list[str]:
    """One line per result of each stage that has run, the sample text, and the next commands."""
    run = Snapshot(WORKSPACE, None)
    found = [f"{stage:<13} {name:<42} {value}" for stage, name, value in _results(run)]
    if notes := changes.not_rerun(run, SHOWN):
        found += ["", *(f"note: {note}" for note in notes)]
    samples = run.rows(f"{REPORTS}/pretrain/samples.csv")
    if samples and (sample := samples[-1].get("text")):
        found += ["", f"The model writes: {sample!r}"]
    found += _origin(run)
    width = len(program()) + 8
    found += ["", "Next:", f"  {program() + ' ui':<{width}}see all runs in the MLflow UI"]
    found += [f"  {program() + ' chat':<{width}}give instructions to your model"]
    found += [f"  edit params.yaml, then: {program()} repro && {program()} compare"]
    hint = _precision_hint()
    return [*found, "", hint] if hint else found


def _origin(run: Snapshot) -> list[str]:
    """Say if the figures were not computed here, or if this machine computes other bytes than the committed ones."""
    missing = baseline.not_computed(tuple(stage for stage in SHOWN if _metrics(run, stage)))
    if missing:
        return ["", f"Not computed here, but from git: {', '.join(missing)}. `{program()} repro` computes them."]
    if differing := baseline.differing():
        text = f"{len(differing)} outputs differ from the committed ones: this machine computes other bytes. "
        return ["", f"{text}`{program()} baseline` makes these figures the ones to compare with."]
    return []


def _results(run: Snapshot) -> Iterator[tuple[str, str, str]]:
    if pretrain := _metrics(run, "pretrain"):
        yield "pretraining", "loss, training / validation", _pair(pretrain, "train_loss", "val_loss", ".3f")
        yield "", "validation bits per byte", _number(pretrain.get("val_bits_per_byte"), ".3f")
    if spam := _metrics(run, "finetune_spam"):
        yield "spam", "accuracy, training / test", _pair(spam, "train_accuracy", "test_accuracy", ".1%")
    if instruct := _metrics(run, "finetune_instruct"):
        yield "instructions", "loss, training / validation", _pair(instruct, "train_loss", "val_loss", ".3f")
    if (judge := _metrics(run, "evaluate_with_judge")) and judge.get("score_mean") is not None:
        shown = f"{_number(judge['score_mean'], '.1f')} of 100"
        low, high = judge.get("score_ci95_low"), judge.get("score_ci95_high")
        if low is not None and high is not None:  # one score has no interval
            shown += f" ({_number(low, '.1f')} to {_number(high, '.1f')})"
        counts = f"{_number(judge.get('n_scored'), '')} of {_number(judge.get('n_items'), '')}"
        yield "judge", f"{judge.get('backend', MISSING)} score of {counts} answers", shown


def _metrics(run: Snapshot, stage: str) -> dict[str, Any] | None:
    return run.mapping(f"{REPORTS}/{stage}/metrics.json")


def _pair(metrics: dict[str, Any], first: str, second: str, form: str) -> str:
    return f"{_number(metrics.get(first), form)} / {_number(metrics.get(second), form)}"


def _number(value: Any, form: str) -> str:
    """A number as text; MISSING for what is none, as in a report of another version."""
    return f"{value:{form}}" if isinstance(value, int | float) else MISSING


def _precision_hint() -> str | None:
    from llm.runtime.device import RuntimeConfig, cpu_has_bf16

    config = params.read_section(RuntimeConfig, "runtime")
    if (config.precision, config.device) == ("fp32", "cpu") and cpu_has_bf16():
        return f"This CPU multiplies bf16 in hardware: `{program()} use auto` makes training faster."
    return None
