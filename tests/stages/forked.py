"""Stages of a project, each run in a fork that a test may kill."""

from __future__ import annotations

from typing import Any

from tests.forks import Ended, Forks
from tests.stages.project import Project


def run(project: Project, forks: Forks, stage: str, **kill: Any) -> Ended:
    """Run a stage such as `pretrain` or `download corpus`, and kill it where `Forks.run` is told to."""
    module, *item = stage.split()
    return forks.run(project.folder, f"stages.{module}", *item, **kill)


def build(project: Project, forks: Forks, *stages: str) -> str:
    """Run stages one after the other, each to a good end; return what the last one said on stderr."""
    for stage in stages:
        ended = run(project, forks, stage)
        assert ended.code == 0, ended.err
    return ended.err
