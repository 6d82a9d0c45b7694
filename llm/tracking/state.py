"""The project as it stands after a `dvc repro`: parameters, how each stage last ran (dvc.lock), and its figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.common import dvc_cache, dvc_lock, files, params
from llm.common.dvc_lock import hashes, lookup
from llm.tracking import links
from llm.tracking.links import Links

TOKENIZER = "tokenizer"  # of a model in tokenizer.source, it reads the vocabulary and not the weights
CHECK = "check"  # it reads all parameters and all code, and has no figures
HOW = ("seed", "runtime")  # parameters that say how a stage computes
OVER = ("prompt", "mask_prompt")  # settings of a training that say which tokens its own losses are means of
# Stages whose own losses are means over the tokens of the tokenizer that came with the model they started from.
PER_TOKEN = ("finetune_instruct", "preference_base", "reason_sft", "reason_control", "reason_distill")


@dataclass(frozen=True)
class State:
    """What a folder holds. All of it is read at once: DVC deletes the copy of the project that an experiment ran in."""

    folder: Path
    parameters: dict[str, Any]
    stages: dvc_lock.Stages  # in the order of dvc.lock
    lock_md5: str
    project: Path  # whose cache has the outputs

    @classmethod
    def read(cls, folder: Path, project: Path | None = None) -> State:
        """Read the folder, which may be a copy of that of the `project`.

        Raises OSError or UserError where params.yaml or dvc.lock cannot be read.
        """
        lock, parameters = folder / dvc_lock.LOCK, params.load(folder / params.PARAMS)
        return cls(folder, parameters, dvc_lock.read(lock), files.dvc_md5(lock), project or folder)

    def up_to_date(self) -> list[str]:
        """The stages whose last run had these parameters, and the outputs of stages that are up to date as its inputs.

        An input that is a part of an output, or holds several, is up to date if all stages are that made it. Sources
        outside of the pipeline are not looked at.
        """
        names = [name for name in self.stages if name != CHECK]
        changed = [
            name
            for name in names
            if any(lookup(self.parameters, key) != value for key, value in self.used_parameters(name).items())
        ]
        stale = links.stale(self.stages, changed)
        return [name for name in names if name not in stale]

    def models(self, stage: str) -> dict[str, str]:
        """The md5 of each model that the stage makes, by path."""
        return {path: md5 for path, md5 in self.outputs(stage).items() if path.startswith("models/")}

    def measures(self) -> dict[str, list[str]]:
        """By stage that makes a model, the stages whose figures tell of it: itself, and those that use no other model.

        A stage also uses a model through what others made with it: the judge reads the answers.
        """
        behind = {stage: self._models_behind(stage) for stage in self.stages}
        return {
            maker: [stage for stage, found in behind.items() if found == {maker}]
            for maker in self.stages
            if self.models(maker)
        }

    def conditions(self, stage: str, maker: str) -> dict[str, str]:
        """What the figures of a stage depend on besides the model of `maker`: data and settings, by their md5.

        Figures of two models can be compared if these are equal. How a model was made, the seed, and how the stages
        compute are left out, except what a training's own losses are means of.
        """
        users = self._users(stage, maker)
        made = Links({user: self.stages[user] for user in users})
        found = {}
        for user in users or {maker}:
            for path, md5 in hashes(self.stages[user], "deps").items():
                if path.startswith("data/") and not made.makers(path):
                    found[path] = md5
        for user in users:
            for section, values in self.used_parameters(user).items():
                if section not in HOW:
                    found[section] = _md5(values)
        return dict(sorted((found if users else found | self._own_tokens(maker)).items()))

    def _own_tokens(self, maker: str) -> dict[str, str]:
        """What the own losses of a training are means of, besides its data."""
        found = {key: _md5(value) for key, value in about_tokens(self.used_parameters(maker)).items()}
        if maker.partition("@")[0] in PER_TOKEN:
            known = [dvc_cache.tokenizer(self.project, md5) for md5 in self.models(maker).values()]
            found |= {"tokenizer": known[0]} if known and known[0] else {}
        return found

    def outputs(self, stage: str) -> dict[str, str]:
        """The md5 of each output by path."""
        return hashes(self.stages[stage], "outs")

    def figures(self, stage: str) -> dict[str, float]:
        """The numbers of the metrics reports that the stage wrote, as long as these are the files in dvc.lock."""
        found: dict[str, float] = {}
        for report in self.reports(stage, ".json"):
            with suppress(OSError):
                found |= numbers(files.read_json(report))
        return found

    def reports(self, stage: str, suffix: str = "") -> list[Path]:
        """The reports with a suffix that the stage wrote, as long as these are the files in dvc.lock."""
        found = []
        for path, md5 in self.outputs(stage).items():
            with suppress(OSError):
                if path.startswith("reports/") and path.endswith(suffix) and files.dvc_md5(self.folder / path) == md5:
                    found.append(self.folder / path)
        return found

    def before(self, stage: str) -> set[str]:
        """The stages whose outputs this one reads, also in part or with others."""
        every, deps = Links(self.stages), hashes(self.stages[stage], "deps").items()
        return {one for path, md5 in deps for one in every.makers(path, md5)} - {CHECK, stage}

    def _models_behind(self, stage: str) -> set[str]:
        """The stage itself if it makes a model; else those that made the models it uses, directly or not."""
        if self.models(stage):
            return {stage}
        if stage == TOKENIZER:
            return set()
        return set().union(*(self._models_behind(one) for one in self.before(stage)))

    def _users(self, stage: str, maker: str) -> set[str]:
        """The stages from the first use of the model to this stage; none if this stage makes it."""
        if stage == maker:
            return set()
        before = [one for one in self.before(stage) if maker in self._models_behind(one)]
        return {stage}.union(*(self._users(one, maker) for one in before))

    def used_parameters(self, stage: str) -> dict[str, Any]:
        """The parameters that the stage ran with, as dvc.lock has them."""
        return dvc_lock.parameters(self.stages[stage])


def about_tokens(used: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the parameters of a training that say which tokens its own losses are means of, by dotted key."""
    found = dict(used)
    for section, values in used.items():
        found |= {f"{section}.{key}": one for key, one in values.items()} if isinstance(values, Mapping) else {}
    return {key: value for key, value in found.items() if key.rpartition(".")[2] in OVER}


def numbers(report: Any) -> dict[str, float]:
    """The numbers of a JSON report by dotted key; none in a list."""
    if not isinstance(report, Mapping):
        return {}
    return {key: float(value) for key, value in params.flat(report).items() if _is_number(value)}


def _md5(value: Any) -> str:
    return hashlib.md5(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
