"""The registry's alias `champion`: the best version of a model, by the gate that `tracking.champion` declares.

A version becomes the champion if its figure is better by more than the margin, measured on the same data and with the
same settings as the champion's. The first version with the figure becomes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm.common import params
from llm.tracking import models
from llm.tracking.config import Gate, TrackingConfig
from llm.tracking.entities import metric_name
from llm.tracking.state import State

ALIAS = "champion"
MEASURED = "measured."  # a tag of a version: this and a metric, with its values by the conditions of the measurement
LETTERS = 4900  # the most that MLflow takes for a tag of a version


def choose(client: Any, state: State, metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """Move the alias of each model whose gate holds; yield the model, and why its alias moved or did not.

    `metrics` are the figures `<stage>.<name>` of the run.
    """
    gates = params.parse(TrackingConfig, state.parameters["tracking"]).champion
    present = state.up_to_date()
    made = {Path(path).name: (stage, md5) for stage in present for path, md5 in state.models(stage).items()}
    for name, gate in gates.items():
        if name not in made:
            yield name, "kept: the run did not come to this model"
            continue
        maker, md5 = made[name]
        stage = stage_of(gate.metric, state.measures()[maker])
        if stage not in present or gate.metric not in metrics:
            yield name, f"kept: the run has no {gate.metric} of this model"
        elif version := models.version_of(client, name, md5):
            on = ", ".join(f"{what} {its_md5[:8]}" for what, its_md5 in state.conditions(stage, maker).items())
            yield name, _choose(client, version, gate, metrics[gate.metric], on)
        else:
            yield name, "kept: the registry has no version of this model, as no recorded run made it"


def stage_of(metric: str, stages: list[str]) -> str | None:
    """The one of the stages that a metric `<stage>.<name>` belongs to."""
    return next((stage for stage in stages if metric.startswith(f"{metric_name(stage)}.")), None)


def _choose(client: Any, version: Any, gate: Gate, value: float, on: str) -> str:
    name, number = version.name, str(version.version)
    _write_down(client, version, gate.metric, on, value)
    holder = client.get_registered_model(name).aliases.get(ALIAS)
    if str(holder) == number:
        return f"kept: version {number} is the champion, with {gate.metric} {value:.6g}"
    known = _measured(client.get_model_version(name, holder), gate.metric) if holder else {}
    if known and on not in known:
        return f"kept: version {holder} was measured on {'; '.join(known)}, and not on {on}"
    if not known:
        why = f"the first with {gate.metric}, {value:.6g}"
    else:
        holds = gate.passes(value, known[on])
        word = "above" if gate.better == "higher" else "below"
        margin = f" by more than {gate.margin:g}" if gate.margin else ""
        why = (
            f"{gate.metric} {value:.6g} is {'' if holds else 'not '}{word} {known[on]:.6g} of version {holder}{margin}"
        )
        if not holds:
            return f"kept: {why}"
    client.set_registered_model_alias(name, ALIAS, number)
    return f"moved to version {number}: {why}"


def _write_down(client: Any, version: Any, metric: str, on: str, value: float) -> None:
    """Add a measurement to the tags of a version; where there are too many, the oldest goes."""
    known = {key: one for key, one in _measured(version, metric).items() if key != on} | {on: value}
    while len(text := json.dumps(known)) > LETTERS:
        known.pop(next(iter(known)))
    client.set_model_version_tag(version.name, version.version, f"{MEASURED}{metric}", text)


def _measured(version: Any, metric: str) -> dict[str, float]:
    """What was measured of a version, by the conditions."""
    found: dict[str, float] = json.loads(version.tags.get(f"{MEASURED}{metric}", "{}"))
    return found
