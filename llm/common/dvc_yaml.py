"""dvc.yaml: the stages of the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llm.common import yaml_file
from llm.common.errors import USAGE, UserError

PIPELINE = Path("dvc.yaml")


def stage_names(path: Path = PIPELINE) -> list[str]:
    """The stages of a dvc.yaml in their order. Raises UserError if it is missing or has no section `stages`."""
    stages = yaml_file.read_plain(path).get("stages")
    if not isinstance(stages, Mapping):
        raise UserError(
            f"{path}: stages", f"{yaml_file.show(stages)} is not a section", "see `git diff dvc.yaml`", USAGE
        )
    return [str(name) for name in stages]
