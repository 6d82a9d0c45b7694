"""Parameters, metrics and data sets as MLflow takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.common import params

VALUE_LETTERS = 6000  # the most that MLflow takes for a parameter
METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100


@dataclass(frozen=True)
class Data:
    """A data set, by the md5 that DVC gives it."""

    path: str
    md5: str

    @property
    def name(self) -> str:
        return Path(self.path).name


def metric_name(key: str) -> str:
    """A key as MLflow takes it: `download@spam` becomes `download.spam`."""
    return re.sub(r"[^\w\-./: ]", "_", key.replace("@", "."))


def as_params(values: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as MLflow takes them: texts by dotted key."""
    return {metric_name(key): str(value)[:VALUE_LETTERS] for key, value in params.flat(values).items()}


def log_params(client: Any, run: str, values: Mapping[str, str]) -> None:
    """Log parameters, as many at a time as MLflow takes."""
    from mlflow.entities import Param

    entries = [Param(key, value) for key, value in as_params(values).items()]
    for at in range(0, len(entries), PARAMS_AT_ONCE):
        client.log_batch(run, params=entries[at : at + PARAMS_AT_ONCE])


def points(
    values: Mapping[str, float], at: int, step: int = 0, model: str | None = None, data: Data | None = None
) -> list[Any]:
    """Metrics at a time in milliseconds; of a logged model and the data that it was measured on, if given."""
    from mlflow.entities import Metric

    measured = {"model_id": model} | ({"dataset_name": data.name, "dataset_digest": data.md5} if data else {})
    return [Metric(metric_name(key), value, at, step, **measured) for key, value in values.items()]


def log_points(client: Any, run: str, found: list[Any]) -> None:
    """Log metrics, as many at a time as MLflow takes. Logged twice, it keeps equal ones once."""
    for at in range(0, len(found), METRICS_AT_ONCE):
        client.log_batch(run, metrics=found[at : at + METRICS_AT_ONCE])


def log_data(client: Any, runs: Iterable[str], data: Data) -> None:
    """Log a data set as an input of runs."""
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.data.sources import LocalArtifactDatasetSource
    from mlflow.entities import Dataset, DatasetInput

    entry = MetaDataset(LocalArtifactDatasetSource(data.path), name=data.name, digest=data.md5).to_dict()
    for run in runs:
        client.log_inputs(run, [DatasetInput(Dataset.from_dictionary(entry))])
