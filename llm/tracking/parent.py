"""The MLflow run of a whole `dvc repro`: all parameters, where it ran, and the figures of all stages.

The figures come from the reports, so that they are complete also where DVC skipped stages or took them from its cache.
The tag `cached` names those stages, and `made_by.<stage>` is the run that made their outputs.
"""

from __future__ import annotations

import io
import platform
import re
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from llm.common import files, git_here, params
from llm.common.errors import UserError
from llm.tracking import champion, exhibits, models, spool, traces
from llm.tracking.entities import Data, as_params, log_data, log_params, log_points, metric_name, points
from llm.tracking.state import State

PACKAGES = ("torch", "mlflow", "dvc")  # whose versions the run tells
DIFF_LETTERS = 2**20
REPORTS, FILES = "reports", ("params.yaml", "dvc.lock")  # what tells of a run


class Parent:
    """The run of one dvc process; `ran` has the runs of its stages."""

    def __init__(self, client: Any, experiment: str, header: Mapping[str, Any]) -> None:
        self._client, self._experiment, self._header = client, experiment, header
        self._folder = Path(header["folder"])
        where = f"tags.`dvc.process` = '{header['dvc']['key']}'"
        found = client.search_runs([experiment], where, max_results=1)
        run = found[0] if found else self._create()
        self.id: str = run.info.run_id
        self.started: int = run.info.start_time
        self.failed = "error" in run.data.tags
        self._parameters: dict[str, str] = run.data.params
        self._tags: dict[str, str] = run.data.tags
        self.ran: dict[str, str] = {}
        if found:  # by an earlier recorder
            children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{self.id}'")
            self.ran = {child.data.tags.get("stage", ""): child.info.run_id for child in children}

    def _create(self) -> Any:
        header = self._header
        dvc, git = header["dvc"], header["git"]
        at = datetime.fromtimestamp(header["time"] / 1000).strftime("%m-%d %H:%M")
        version = f"{git['branch']}@{git['commit'][:7]}".removeprefix("(detached)@") if git else ""
        name = " ".join(filter(None, [header["exp"] or "repro", at, version]))  # the table shows some 18 letters of it
        own = {"dvc.process": dvc["key"], "mlflow.source.name": dvc["command"], "cpu": _cpu()}
        own |= {f"version.{package}": metadata.version(package) for package in PACKAGES}
        own["version.python"] = platform.python_version()
        run = self._client.create_run(self._experiment, header["time"], tags(header) | own, name)
        with suppress(OSError, UserError):
            run.data.params.update(as_params(params.load(self._folder / params.PARAMS)))
            log_params(self._client, run.info.run_id, run.data.params)
        if git and git["dirty"] and (text := _difference(self._folder)):
            self._client.log_text(run.info.run_id, text, "changes.diff")
        return run

    def lives(self) -> bool:
        """Whether its dvc process still runs."""
        dvc = self._header["dvc"]
        return spool.born(dvc["pid"]) == str(dvc["born"])

    def finish(self) -> None:
        """Add what the stages that are up to date and did not run have to show. May be called again.

        A folder whose parameters are no longer those of this run tells of another run; then nothing is added.
        """
        with tempfile.TemporaryDirectory() as copy:
            try:
                state = self._state(Path(copy))
            except (OSError, UserError):  # the folder of a failed experiment is gone, or DVC is just writing there
                return
            if as_params(state.parameters) == self._parameters:
                self._complete(state)

    def _state(self, copy: Path) -> State:
        """The folder as it stands, copied: DVC deletes that of a queued experiment, which git then has a commit of."""
        with suppress(OSError):
            for name in FILES:
                shutil.copyfile(self._folder / name, copy / name)
            shutil.copytree(self._folder / REPORTS, copy / REPORTS)
        if (ref := self._header.get("ref")) and not _is_whole(copy):
            told = git_here.output("archive", "--format=tar", ref, *FILES, REPORTS, seconds=30)
            with suppress(OSError, tarfile.TarError), tarfile.open(fileobj=io.BytesIO(told or b"")) as archive:
                for one in filter(tarfile.TarInfo.isfile, archive):
                    files.write_bytes(copy / one.name, archive.extractfile(one).read())  # type: ignore[union-attr]
        return State.read(copy, Path(self._header.get("root") or self._folder))

    def _complete(self, state: State) -> None:
        present = state.up_to_date()
        cached = [stage for stage in present if stage not in self.ran]
        self._tag("dvc.lock", state.lock_md5)
        self._tag("cached", ", ".join(cached))
        for stage in cached:
            if maker := self._maker(state, stage):
                self._tag(f"made_by.{metric_name(stage)}", maker.info.run_id)
                if data := maker.inputs.dataset_inputs:
                    self._client.log_inputs(self.id, data)
                if made := maker.outputs.model_outputs:  # a server refuses an empty list
                    self._client.log_outputs(self.id, made)
            self.log_figures(stage, state.figures(stage))
        metrics = self._client.get_run(self.id).data.metrics
        for maker_stage, measuring in state.measures().items():
            for stage in measuring:
                if stage in present and stage != maker_stage and {stage, maker_stage} & self.ran.keys():
                    self._measure(state, maker_stage, stage, metrics)
        standing = [model for stage in present for model in state.models(stage).items()]
        for path, md5 in standing if in_project(self._header) else ():
            models.stand(self._client, Path(path).name, md5)
        for name, why in champion.choose(self._client, state, metrics):
            if not self._tags.get(key := f"champion.{name}", "").startswith("moved"):  # said at an earlier call
                self._tag(key, why)
        for stage in present:
            runs = {self.id: metric_name(stage)} | ({self.ran[stage]: ""} if stage in self.ran else {})
            exhibits.show(self._client, runs, state.reports(stage))
            self._judge(state, stage)

    def _judge(self, state: State, stage: str) -> None:
        """Add the scores of a stage that judged answers to the traces of these answers."""
        for rows in filter(traces.are_scores, map(files.read_json, state.reports(stage, ".json"))):
            for answering in state.before(stage):
                run = self.ran.get(answering)
                if run is None and stage in self.ran and (maker := self._maker(state, answering)):
                    run = maker.info.run_id
                if run:
                    settings = state.used_parameters(stage).get("judge", {})
                    traces.log_scores(self._experiment, run, settings, rows)

    def log_figures(
        self, stage: str, values: Mapping[str, float], model: str | None = None, data: Data | None = None
    ) -> None:
        """Log figures of a stage as `<stage>.<name>`, rounded; also for a logged model and its data, if given."""
        rounded = {f"{stage}.{key}": float(f"{value:.6g}") for key, value in values.items()}
        log_points(self._client, self.id, points(rounded, self.started, 0, model, data))

    def _measure(self, state: State, maker: str, stage: str, metrics: Mapping[str, float]) -> None:
        """Log the figures of a stage as those of the model that it used, with the data it read."""
        start = f"{metric_name(stage)}."
        values = {key.removeprefix(start): value for key, value in metrics.items() if key.startswith(start)}
        read = [Data(path, md5) for path, md5 in state.conditions(stage, maker).items() if path.startswith("data/")]
        if read:
            log_data(self._client, [self.id], read[0])
        for path, md5 in state.models(maker).items():
            if model := models.find(self._client, self._experiment, Path(path).name, md5):
                self.log_figures(stage, values, model, read[0] if read else None)

    def _maker(self, state: State, stage: str) -> Any | None:
        """The first run that made these outputs."""
        for path, md5 in state.outputs(stage).items():
            where = f"tags.`{metric_name(f'{spool.OUTPUT}{path}')}` = '{md5}'"
            order = ["attributes.start_time ASC"]
            for run in self._client.search_runs([self._experiment], where, max_results=1, order_by=order):
                return run
        return None

    def _tag(self, key: str, value: str) -> None:
        if value:
            self._client.set_tag(self.id, key, value[:5000])
            self._tags[key] = value


def in_project(header: Mapping[str, Any]) -> bool:
    """Whether the stage ran in the project itself, not in the copy of a queued experiment."""
    return header.get("root") in (None, header.get("folder"))


def _is_whole(folder: Path) -> bool:
    """Whether it holds params.yaml, dvc.lock, and all reports that this one names."""
    try:
        state = State.read(folder)
    except (OSError, UserError):
        return False
    made = (path for stage in state.stages for path in state.outputs(stage))
    return all((folder / path).is_file() for path in made if path.startswith(f"{REPORTS}/"))


def tags(header: Mapping[str, Any]) -> dict[str, str]:
    """What a run tells about its origin."""
    found = {"mlflow.user": header["user"], "mlflow.source.type": "LOCAL"}
    if header["exp"]:
        found["dvc.exp"] = header["exp"]
    if header["git"]:
        git = header["git"]
        found |= {"mlflow.source.git.commit": git["commit"], "mlflow.source.git.branch": git["branch"]}
        found["git.dirty"] = str(git["dirty"]).lower()
    return found


def _cpu() -> str:
    """The kind of CPU, on which the last digits may depend."""
    found = re.search(r"^model name\s*: (.+)$", spool.read(Path("/proc/cpuinfo")) or "", re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _difference(folder: Path) -> str:
    """What differs from the last commit: the list of files, then the diff; bounded."""
    changed = git_here.text("status", "--short", "--", *git_here.SOURCES, folder=folder, seconds=10) or ""
    return "\n".join(text[:DIFF_LETTERS] for text in (changed, git_here.difference(folder, seconds=10)) if text)
