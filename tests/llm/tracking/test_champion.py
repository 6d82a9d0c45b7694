"""The alias `champion` moves only if the declared gate holds, and the run says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm.common import params
from llm.common.errors import UserError
from llm.tracking import champion, models
from llm.tracking.config import TrackingConfig
from llm.tracking.state import State
from tests.llm.tracking.conftest import PARAMS, lock

GATE = {"metric": "train.loss", "better": "lower", "margin": 0.1}
Decide = Callable[..., str]


@pytest.fixture
def decide(client: Any, folder: Path) -> Decide:
    """A run that makes models/m with the given md5 and loss; what is said of its champion."""
    experiment = client.create_experiment("e")

    def run(md5: str, loss: float | None, data: str = "a", gate: dict[str, Any] = GATE) -> str:
        stages = lock()["stages"]
        stages["train"]["outs"][0]["md5"] = stages["judge"]["deps"][0]["md5"] = md5
        stages["train"]["deps"][0]["md5"] = stages["data@a"]["outs"][0]["md5"] = data
        (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
        (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"tracking": tracking(m=gate)}))
        about = {"path": "models/m", "dvc.md5": md5}
        made = client.create_run(experiment).info.run_id
        models.log(client, made, experiment, "m", about, {"lr": "0.5"})
        said = dict(champion.choose(client, State.read(folder), {} if loss is None else {"train.loss": loss}))
        assert said.keys() == {"m"}
        return said["m"]

    return run


def tracking(**gates: Any) -> dict[str, Any]:
    return {"enabled": True, "required": False, "champion": gates}


def holder(client: Any) -> str | None:
    found = client.get_registered_model("m").aliases.get(champion.ALIAS)
    return None if found is None else str(found)


def test_the_first_with_the_metric_becomes_it(client: Any, decide: Decide) -> None:
    assert decide("x", None) == "kept: the run has no train.loss of this model"
    assert holder(client) is None
    assert decide("y", 1.0) == "moved to version 2: the first with train.loss, 1"
    assert holder(client) == "2"


def test_it_moves_only_by_more_than_the_margin(client: Any, decide: Decide) -> None:
    decide("x", 1.0)
    assert decide("y", 0.9) == "kept: train.loss 0.9 is not below 1 of version 1 by more than 0.1"
    assert decide("z", 1.5).startswith("kept: train.loss 1.5 is not below")
    assert holder(client) == "1"
    assert decide("w", 0.8) == "moved to version 4: train.loss 0.8 is below 1 of version 1 by more than 0.1"
    assert holder(client) == "4"
    assert decide("w", 0.8) == "kept: version 4 is the champion, with train.loss 0.8"
    assert str(client.get_registered_model("m").aliases[models.CURRENT]) == "4"


def test_higher_is_better_where_that_is_declared(client: Any, decide: Decide) -> None:
    gate = GATE | {"better": "higher", "margin": 0.0}
    decide("x", 1.0, gate=gate)
    assert decide("y", 1.0, gate=gate) == "kept: train.loss 1 is not above 1 of version 1"
    assert decide("z", 1.5, gate=gate) == "moved to version 3: train.loss 1.5 is above 1 of version 1"


def test_figures_on_other_data_are_not_compared(client: Any, decide: Decide) -> None:
    decide("x", 1.0)
    assert decide("y", 0.1, data="b") == "kept: version 1 was measured on data/a a, and not on data/a b"
    assert holder(client) == "1"
    decide("x", 1.0, data="b")  # the champion, measured there too
    assert decide("y", 0.1, data="b").startswith("moved to version 2")
    tags = client.get_model_version("m", 1).tags
    assert json.loads(tags[f"{champion.MEASURED}train.loss"]) == {"data/a a": 1.0, "data/a b": 1.0}


def test_a_gate_of_another_metric_starts_anew(client: Any, decide: Decide) -> None:
    decide("x", 1.0)
    assert decide("y", 2.0, gate=GATE | {"metric": "train.none"}) == "kept: the run has no train.none of this model"
    assert holder(client) == "1"


def test_a_model_that_the_run_did_not_make_is_said(client: Any, folder: Path) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"tracking": tracking(other=GATE)}))
    said = dict(champion.choose(client, State.read(folder), {"train.loss": 1.0}))
    assert said == {"other": "kept: the run did not come to this model"}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"metric": "accuracy"}, "champion.m.metric"),
        ({"better": "more"}, "champion.m.better"),
        ({"margin": -1.0}, "champion.m.margin"),
        ({"margins": 1.0}, "champion.m.margins"),
    ],
)
def test_a_gate_is_checked_as_all_parameters_are(change: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError) as caught:
        params.parse(TrackingConfig, tracking(m=GATE | change))
    assert caught.value.where == f"params.yaml: {where}"


def test_a_model_logged_again_for_its_run_is_one(client: Any) -> None:
    experiment = client.create_experiment("e")
    run = client.create_run(experiment).info.run_id
    about = {"path": "models/m", "dvc.md5": "x"}
    first, again = (models.log(client, run, experiment, "m", about, {"lr": "1"}) for _ in range(2))
    assert first == again
    logged = client.get_logged_model(first)
    assert logged.params == {"lr": "1"}
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [{"name": "m", "version": 1}]
    other = models.log(client, client.create_run(experiment).info.run_id, experiment, "m", about, {})
    assert other != first
    assert models.find(client, experiment, "m", "x") == other
    assert [str(one.version) for one in client.search_model_versions("name = 'm'")] == ["1"]


def test_a_model_that_no_recorded_run_made_is_none(client: Any, folder: Path) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"tracking": tracking(m=GATE)}))
    why = dict(champion.choose(client, State.read(folder), {"train.loss": 1.0}))
    assert why == {"m": "kept: the registry has no version of this model, as no recorded run made it"}
