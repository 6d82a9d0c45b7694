"""Models in MLflow: a logged model for each run that makes one, and the registry's versions, one for each md5.

DVC keeps the weights. MLflow has the md5 that finds them, the parameters they were made with, and what was measured of
them. The registry's alias `current` names the version that stands in models/; `champion.py` has the other one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

CURRENT = "current"


def log(
    client: Any,
    run: str,
    experiment: str,
    name: str,
    about: Mapping[str, str],
    params: Mapping[str, str],
    stands: bool = True,
) -> str:
    """Log a model that a run made, and register weights that are new; return its id. Logged again, nothing changes.

    `about` has the tags `path` and `dvc.md5`. With `stands`, it is the one in models/ now.
    """
    import mlflow
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    md5 = about["dvc.md5"]
    logged = find(client, experiment, name, md5, f"source_run_id = '{run}'")
    if logged is None:
        made = mlflow.create_external_model(name, run, dict(about), dict(params), experiment_id=experiment)
        logged = str(made.model_id)
    _register(client, name)
    version = version_of(client, name, md5)
    if version is None:
        source = f"models:/{logged}"
        version = client.create_model_version(name, source, run, dict(about), await_creation_for=0, model_id=logged)
    link = json.dumps([{"name": name, "version": int(version.version)}])  # as mlflow.register_model does
    client.set_logged_model_tags(logged, {MLFLOW_MODEL_VERSIONS: link})
    if stands:
        client.set_registered_model_alias(name, CURRENT, version.version)
    return logged


def stand(client: Any, name: str, md5: str) -> None:
    """Let the alias name the version that stands in models/, also if its weights came from DVC's cache."""
    version = version_of(client, name, md5)
    if version and CURRENT not in version.aliases:
        client.set_registered_model_alias(name, CURRENT, version.version)


def find(client: Any, experiment: str, name: str, md5: str, *more: str) -> str | None:
    """The id of the model that was logged last with these weights; `more` are further conditions."""
    where = " AND ".join([f"name = '{name}'", f"tags.`dvc.md5` = '{md5}'", *more])
    order = [{"field_name": "creation_timestamp", "ascending": False}]
    found = client.search_logged_models([experiment], where, max_results=1, order_by=order)
    return str(found[0].model_id) if found else None


def version_of(client: Any, name: str, md5: str) -> Any | None:
    """The registry's version with these weights."""
    found = client.search_model_versions(f"name = '{name}'")
    return next((version for version in found if version.tags.get("dvc.md5") == md5), None)


def _register(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
