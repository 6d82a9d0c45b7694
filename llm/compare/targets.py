"""Whether the losses of two runs are means over the same targets, and their scores of one judge.

Only then can they be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llm.common import dvc_cache, dvc_lock
from llm.compare.changes import same_outputs
from llm.compare.snapshot import Snapshot
from llm.tracking.state import PER_TOKEN, about_tokens

CORPUS, TOKENIZER, TEXT = "data/corpus", "data/tokenizer", "data/raw/corpus"
TOKENS = {"pretrain": (CORPUS, TOKENIZER), "finetune_instruct": (TOKENIZER,)}
PRETRAIN, BITS = "pretrain", "pretrain: val_bits_per_byte"
# Parameters that say which text is the validation split, besides the text itself.
SPLIT = ("tokenize.documents", *(f"tokenize.corpus.{key}" for key in ("train_fraction", "split_by", "separator")))
ASKING = ("url", "timeout_seconds", "retries", "max_failed", "min_coverage")  # how a judge is asked, not which it is
WINDOWS, BATCHES = ("context", "stride"), ("batch_size", "eval_batches")  # settings that choose what is evaluated


def differ(stage: str, first: Snapshot, second: Snapshot) -> bool:
    """Whether the losses of a stage are over other tokens, as far as dvc.lock and DVC's cache tell."""
    if not same_outputs(first, second, *TOKENS.get(stage, ())):
        return True
    before, after = (_Run(stage, side) for side in (first, second))
    other = bool(_changed(before.targets, after.targets))
    return other or (stage != PRETRAIN and before.has_other_tokenizer(after))


def other_text(first: Snapshot, second: Snapshot) -> bool:
    """Whether the validation split of pretraining has another text: then bits per byte are of different bytes, too."""
    split = any(dvc_lock.lookup(first.params, key) != dvc_lock.lookup(second.params, key) for key in SPLIT)
    return split or not same_outputs(first, second, TEXT)


def without_difference(figures: Iterable[str], first: Snapshot, second: Snapshot) -> set[str]:
    """Those of the figures, such as `pretrain: train_loss`, of which two values are not to be subtracted.

    Their losses are over other tokens, or the stage has not run since an input changed.
    """
    found, known = set(), dict[str, bool]()
    for figure in figures:
        where, _, key = figure.partition(": ")
        stage = where.replace("/", "@")
        per_token = key.endswith("loss") and stage.partition("@")[0] in (PRETRAIN, *PER_TOKEN)
        if (per_token or figure == BITS) and stage not in known:
            known[stage] = differ(stage, first, second)
        other = known.get(stage, False) and (per_token or (figure == BITS and other_text(first, second)))
        if other or stage in first.stale or stage in second.stale:
            found.add(figure)
    return found


def other_batches(stage: str, first: Snapshot, second: Snapshot) -> list[str]:
    """The parameters that differ and choose the windows or batches of an evaluation."""
    before, after = (_Run(stage, side).settings for side in (first, second))
    whole = before.get("eval_batches") is None and after.get("eval_batches") is None
    changed = _changed(before, after)
    return [f"{stage}.{key}" for key in (WINDOWS if whole else (*WINDOWS, *BATCHES)) if key in changed]


def other_judge(first: Snapshot, second: Snapshot) -> list[str]:
    """The parameters that differ and make the scores those of another judge."""
    used = [dvc_lock.parameters(side.stages.get("evaluate_with_judge") or {}) for side in (first, second)]
    before, after = (one.get("judge") or {} for one in used)
    changed = _changed(before, after)
    formula = before.get("backend") == after.get("backend") == "reference"  # it uses none of the other parameters
    return [] if formula else [f"judge.{key}" for key in changed if key not in ASKING]


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The keys with another value; an older dvc.lock may lack some."""
    return [key for key in before if key in after and before[key] != after[key]]


class _Run:
    """How a stage ran in a state of the project, by dvc.lock."""

    def __init__(self, stage: str, side: Snapshot) -> None:
        found = side.stages.get(stage) or {}
        self.side, self.deps = side, dvc_lock.hashes(found, "deps")
        self.used = dvc_lock.parameters(found)
        self.settings: Mapping[str, Any] = self.used.get(stage) or {}
        made = dvc_lock.hashes(found, "outs").items()
        self.model = next((md5 for path, md5 in made if path.startswith("models/")), None)

    @property
    def targets(self) -> dict[str, Any]:
        """The data, and what decides which of its tokens count."""
        return {path: md5 for path, md5 in self.deps.items() if path.startswith("data/")} | about_tokens(self.used)

    def has_other_tokenizer(self, other: _Run) -> bool:
        """Whether the model that it made is known to have another tokenizer."""
        if self._start == other._start:
            return False
        found = self._tokenizer, other._tokenizer
        return None not in found and found[0] != found[1]

    @property
    def _start(self) -> str | None:
        return self.deps.get(str(self.settings.get("init_from")), self.model)

    @property
    def _tokenizer(self) -> str | None:
        """The tokenizer of the model that it made, which is that of the model that it started from."""
        for md5 in (self.model, self._start):
            if md5 and (found := dvc_cache.tokenizer(Path.cwd(), md5)):
                return found
        text = self.side.data_text(f"{self.settings.get('init_from')}/tokenizer.json")  # of the disk, a remote, or git
        return text and hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
