"""The control of the training with rewards: as many more updates on the same solutions -> models/reason_control.

Without it, nobody could say whether rewards or more training made a model better.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm.runtime.device import RuntimeConfig, set_up_device
from stages.reason_sft import Course, mixture, teach
from stages.run import run_stage, stage
from stages.sections.reason_sft import ReasonControlConfig, ReasonSftConfig

BASE = Path("models/reason_base")


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    runtime: RuntimeConfig
    reason_sft: ReasonSftConfig
    reason_control: ReasonControlConfig


def main(params: Params) -> None:
    """Go on from models/reason_base."""
    with stage("reason_control", params) as run:
        set_up_device(params.runtime)
        share = params.reason_sft.share_with_steps
        updates = params.reason_control.updates
        teach(run, Course(BASE, None, mixture("train", share), share, updates, "models/reason_control"), params)


if __name__ == "__main__":
    run_stage(main, Params, ranked=True)
