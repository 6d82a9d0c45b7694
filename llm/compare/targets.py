"""Whether the validation losses of two runs are means over the same targets: only then can they be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.common import dvc_lock
from llm.compare.changes import same_outputs
from llm.compare.snapshot import Snapshot

CORPUS, TOKENIZER, INSTRUCTIONS = "data/corpus", "data/tokenizer", "data/instructions"
TOKENS = {"pretrain": (CORPUS, TOKENIZER), "finetune_instruct": (TOKENIZER,)}
FRAME = ("prompt", "mask_prompt")  # settings of finetune_instruct
WINDOWS, BATCHES = ("context", "stride"), ("batch_size", "eval_batches")  # settings that choose what is evaluated


def differ(stage: str, first: Snapshot, second: Snapshot) -> bool:
    """Whether the losses of a stage are over other tokens, as far as dvc.lock and DVC's cache tell."""
    if not same_outputs(first, second, *TOKENS[stage]):
        return True
    before, after = (_Run(stage, side) for side in (first, second))
    return stage != "pretrain" and (bool(_changed(before.targets, after.targets)) or before.has_other_tokenizer(after))


def other_batches(stage: str, first: Snapshot, second: Snapshot) -> list[str]:
    """The parameters that differ and choose the windows or batches of an evaluation."""
    before, after = (_Run(stage, side).settings for side in (first, second))
    whole = before.get("eval_batches") is None and after.get("eval_batches") is None
    changed = _changed(before, after)
    return [f"{stage}.{key}" for key in (WINDOWS if whole else (*WINDOWS, *BATCHES)) if key in changed]


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The keys with another value; an older dvc.lock may lack some."""
    return [key for key in before if key in after and before[key] != after[key]]


class _Run:
    """How a stage ran in a state of the project, by dvc.lock."""

    def __init__(self, stage: str, side: Snapshot) -> None:
        found = side.stages.get(stage) or {}
        self.side, self.deps = side, dvc_lock.hashes(found, "deps")
        self.settings: Mapping[str, Any] = dvc_lock.parameters(found).get(stage) or {}

    @property
    def targets(self) -> dict[str, Any]:
        """The instructions, and what decides which of their tokens count."""
        known = {**self.deps, **self.settings}
        return {key: known[key] for key in (INSTRUCTIONS, *FRAME) if key in known}

    def has_other_tokenizer(self, other: _Run) -> bool:
        """Whether the model that it started from is known to have another tokenizer."""
        folders = [str(run.settings.get("init_from")) for run in (self, other)]
        if self.deps.get(folders[0]) == other.deps.get(folders[1]):
            return False
        files = [run.side.data_text(f"{at}/tokenizer.json") for run, at in zip((self, other), folders, strict=True)]
        return None not in files and files[0] != files[1]
