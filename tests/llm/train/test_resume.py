"""A run that was interrupted at any point and in any way ends with the same bytes as an uninterrupted one."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.common.errors import DATA, UserError
from llm.common.files import sha256
from llm.data.batches import ConcatBatches, SequentialBatches
from llm.model.gpt import GPT
from llm.train import losses
from llm.train.callbacks import SaveOptimizer, WarmStart
from llm.train.history import History
from llm.train.loop import fit
from llm.train.optim import AdamW, trainable_parameters
from llm.train.resume import (
    BEST,
    HISTORY,
    MANIFEST,
    MOMENTS,
    WEIGHTS,
    TrainingCheckpoints,
    _of_rank,
    _stored,
    fingerprint,
)
from llm.train.task import Callback, Task, Training
from llm.weights.tensors import write_tensors
from tests.forks import CHANGES, PACKAGES, RENAMES, Ended, Forks
from tests.llm.tiny_run import MODEL, STEPS, TRAIN, Rows, bytes_of, states, train
from tests.tiny import FP32

TASKS = ("pretrain", "spam", "instruct", "buckets")
KEPT = {"pretrain-best": (1, 3), "spam-best": (2, 4), "instruct-best": (1, 3)}  # the kept step and the last one
ROOT = Path(__file__).parents[3]
RUN = "tests.llm.tiny_run"


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    """Make a folder with the input file of the run."""
    numbers = iter(range(10**6))

    def make() -> Path:
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        (folder / "data").write_text("rows")
        return folder

    return make


def outputs(folder: Path) -> dict[str, bytes]:
    published = folder / "published"
    return {str(p.relative_to(published)): p.read_bytes() for p in sorted(published.rglob("*")) if p.is_file()}


# Killed


def survives(forks: Forks, folder: Path, task: str, expected: dict[str, bytes], **kill: Any) -> bool:
    """Kill a run, start it again and compare its bytes. Returns whether the kill came before its end."""
    ended = forks.run(folder, RUN, task, **kill)
    assert ended.killed or ended.code == 0, ended.err
    again = forks.run(folder, RUN, task)
    assert again.code == 0, again.err
    assert outputs(folder) == expected, kill
    assert not (folder / "states").exists()
    shutil.rmtree(folder)
    return ended.killed


def uninterrupted(forks: Forks, folder: Path, task: str) -> dict[str, bytes]:
    ended = forks.run(folder, RUN, task)
    assert ended.code == 0, ended.err
    assert len(outputs(folder)) == 3
    return outputs(folder)


def survived_kills(forks, fresh, task, calls):
    """Kill at the first of the system calls, at the second, and so on, until the run ends; return the number of kills.

    After each kill the run is started again and must end with the bytes of an uninterrupted one.
    """
    expected = uninterrupted(forks, fresh(), task)
    kills = 0
    while survives(forks, fresh(), task, expected, kill_at=kills + 1, calls=calls):
        kills += 1
    return kills


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_any_rename(task, forks, fresh):
    # two checkpoints of four files and one without moments; writing the report, publishing two outputs
    assert survived_kills(forks, fresh, task, RENAMES) == 2 * 4 + 3 + 3


@pytest.mark.long
@pytest.mark.parametrize("task", KEPT)
def test_killed_at_any_rename_with_the_best_weights_kept(task, forks, fresh):
    # a checkpoint of five files and one without moments; writing the report, publishing two outputs
    assert survived_kills(forks, fresh, task, RENAMES) == 5 + 4 + 3


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_any_change_of_a_folder(task, forks, fresh):
    assert survived_kills(forks, fresh, task, CHANGES) > 40


@pytest.mark.long
@pytest.mark.parametrize("task", KEPT)
def test_killed_at_any_change_of_a_folder_with_the_best_weights_kept(task, forks, fresh):
    assert survived_kills(forks, fresh, task, CHANGES) > 30  # one checkpoint less


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_killed_over_an_older_output_at_any_change(task, forks, fresh):
    older, expected = fresh(), uninterrupted(forks, fresh(), task)
    (older / "published/model").mkdir(parents=True)
    (older / "published/model/model.safetensors").write_text("older")
    (older / "published/model/no longer written").write_text("older")
    (older / "published/report.json").write_text("older")
    kills, going = 0, True
    while going:
        folder = fresh()
        shutil.copytree(older, folder, dirs_exist_ok=True)
        going = survives(forks, folder, task, expected, kill_at=kills + 1, calls=CHANGES)
        kills += 1
    assert kills > 40


@pytest.mark.slow
def test_killed_at_random_moments(forks, fresh):
    chance = random.Random(0)
    expected = {task: uninterrupted(forks, fresh(), task) for task in TASKS}
    delays = [(task, chance.uniform(0.0, 0.1)) for task in TASKS * 2]
    kills = sum(survives(forks, fresh(), task, expected[task], kill_after=delay) for task, delay in delays)
    assert kills > 0


@pytest.mark.long
def test_killed_at_random_steps(forks, fresh):
    for task in TASKS:
        expected = uninterrupted(forks, fresh(), task)
        for step in random.Random(task).sample(range(1, STEPS + 1), 3):
            folder = fresh()
            assert forks.run(folder, RUN, task, f"SIGKILL@{step}").killed
            again = forks.run(folder, RUN, task)
            saved = (step - 1) // 2 * 2
            assert (f"resuming after step {saved}" in again.err) == (saved > 0)
            assert outputs(folder) == expected


@pytest.mark.slow
def test_killed_again_and_again(forks, fresh):
    """Each attempt saves at least one checkpoint, so the run ends after some attempts."""
    folder, expected = fresh(), uninterrupted(forks, fresh(), "pretrain")
    attempts = 1
    while forks.run(folder, RUN, "pretrain", kill_at=6).killed:
        attempts += 1
    assert outputs(folder) == expected
    assert attempts == 4


# Asked to stop


@pytest.mark.parametrize(("name", "code", "how"), [("SIGTERM", 143, "terminated"), ("SIGINT", 130, "interrupted")])
def test_a_signal_lets_the_step_end_and_saves_it(name, code, how, forks, fresh):
    folder, expected = fresh(), uninterrupted(forks, fresh(), "spam")
    ended = forks.run(folder, RUN, "spam", f"{name}@3")
    assert ended.code == code
    line = f"error: {how}: by {name}; step 3 is saved, nothing was published"
    assert ended.err.splitlines()[-1] == f"{line} | fix: run the same command again, it will resume there"
    assert not (folder / "published").exists()
    again = forks.run(folder, RUN, "spam")
    assert again.err.splitlines() == ["resuming after step 3"]
    assert outputs(folder) == expected


def test_a_signal_in_the_last_step_stops_before_the_outputs(forks, fresh):
    folder, expected = fresh(), uninterrupted(forks, fresh(), "instruct")
    assert forks.run(folder, RUN, "instruct", f"SIGTERM@{STEPS}").code == 143
    assert outputs(folder) == {}
    assert forks.run(folder, RUN, "instruct").err.splitlines() == [f"resuming after step {STEPS}"]
    assert outputs(folder) == expected


def test_a_second_interrupt_does_not_wait_for_the_step(tmp_path):
    saved = TrainingCheckpoints(tmp_path, 1, print)
    saved.on_signal(2, None)
    saved.on_signal(15, None)  # the kernel sends it when Ctrl-C stops dvc
    with pytest.raises(KeyboardInterrupt):
        saved.on_signal(2, None)


# The contents of a checkpoint: in this process, interrupted by an exception


class Stopped(Exception):
    pass


def stop_after(last: int) -> Callable[[int], None]:
    def on_step(step: int) -> None:
        if step == last + 1:
            raise Stopped

    return on_step


def finish(task: str, folder: Path, wrap: Callable[[Any], Callback] = lambda saved: saved) -> dict[str, bytes]:
    with states(folder) as saved:
        return bytes_of(*train(task, wrap(saved)), folder / "out")


def finished(task: str, folder: Path) -> Path:
    """The folder of a run that ended but has not published its outputs."""
    finish(task, folder)
    return folder


def stopped_after(step: int, task: str, folder: Path) -> Path:
    """The folder of a run that was interrupted after this step."""
    with pytest.raises(Stopped), states(folder) as saved:
        train(task, saved, stop_after(step))
    return folder


class Tampered(Callback):
    """Checkpoints that change the state after loading it."""

    def __init__(self, saved: Callback, change: Callable[[History, AdamW], None]) -> None:
        self.saved, self.change = saved, change
        self.on_step = saved.on_step

    def on_start(self, training: Training) -> None:
        self.saved.on_start(training)
        self.change(training.history, training.optimizer)


def without_moments(_: History, optimizer: AdamW) -> None:
    optimizer.moments.clear()


def without_step_counters(_: History, optimizer: AdamW) -> None:
    for moments in optimizer.moments.values():
        moments["step"].zero_()


def off_by_one(history: History, _: AdamW) -> None:
    history.step -= 1


def untouched(_: History, __: AdamW) -> None:
    pass


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("change", "same"),
    [(untouched, True), (without_moments, False), (without_step_counters, False), (off_by_one, False)],
)
def test_moments_counters_and_the_step_are_needed(task, change, same, fresh):
    reference = finish(task, fresh())
    resumed = finish(task, stopped_after(4, task, fresh()), lambda saved: Tampered(saved, change))
    assert (resumed["model.safetensors"] == reference["model.safetensors"]) == same


def test_checkpoints_do_not_change_the_results(fresh):
    for task in TASKS:
        assert bytes_of(*train(task), fresh() / "out") == finish(task, fresh())


def test_every_row_occurs_once(fresh):
    folder = stopped_after(4, "spam", fresh())
    with states(folder) as saved:
        _, history = train("spam", saved)
    assert [row["step"] for row in history.rows] == [0, 3, 5]
    assert [step for step, _ in history.samples] == [0, 3, 5]
    assert (history.step, history.tokens_seen) == (5, 5 * 48)


def test_earlier_rows_are_reported_again(fresh, monkeypatch):
    folder, heard = stopped_after(4, "pretrain", fresh()), []
    monkeypatch.setattr("tests.llm.tiny_run.Steps.metrics", lambda self, values, step: heard.append(step))
    finish("pretrain", folder)
    assert heard == [0, 3, 5]


# The best weights, and a run that ends early


@pytest.mark.parametrize("task", KEPT)
def test_these_runs_end_early_with_weights_from_before_their_end(task):
    model, history = train(task)
    kept, end = KEPT[task]
    assert (history.best["step"], history.step, history.planned) == (kept, end, STEPS)
    at_the_kept_step: list[Any] = []

    def on_step(step: int) -> None:
        if step == kept + 1:  # the evaluation of the kept step is over: stop before the next
            raise Stopped

    class Watched(Callback):
        def on_step(self, training: Training) -> None:
            if training.history.step == kept:
                weights = trainable_parameters(training.task.model)
                at_the_kept_step.append({name: p.detach().clone() for name, p in weights.items()})

        def on_evaluation(self, training: Training) -> None:
            if kept == 0 and training.history.step == 0:
                self.on_step(training)

    with pytest.raises(Stopped):
        train(task, Watched(), on_step)
    assert same(at_the_kept_step[0], trainable_parameters(model))


def same(some: dict[str, torch.Tensor], others: dict[str, Any]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


class Forgetful(Callback):
    """Checkpoints that replace the best weights by those of the resumed step."""

    def __init__(self, saved: Callback) -> None:
        self.saved = saved
        self.on_step = saved.on_step

    def on_start(self, training: Training) -> None:
        self.saved.on_start(training)
        weights = trainable_parameters(training.task.model)
        training.history.best_weights = {name: p.detach().clone() for name, p in weights.items()}


@pytest.mark.parametrize("task", KEPT)
@pytest.mark.parametrize(("wrap", "right"), [(lambda saved: saved, True), (Forgetful, False)])
def test_a_resumed_run_needs_the_best_weights(task, wrap, right, fresh):
    reference = finish(task, fresh())
    resumed = finish(task, finished(task, fresh()), wrap)
    assert (resumed["model.safetensors"] == reference["model.safetensors"]) == right
    assert resumed["history.json"] == reference["history.json"]


@pytest.mark.parametrize("task", KEPT)
def test_a_run_that_has_ended_early_does_not_continue(task, fresh):
    folder, done, said = finished(task, fresh()), [], []
    with states(folder, say=said.append) as saved:
        _, history = train(task, saved, done.append)
    kept, end = KEPT[task]
    assert said == [f"resuming after step {end}"]
    assert done == []
    assert (history.best["step"], history.step) == (kept, end)


@pytest.mark.parametrize("damage", ["a bit", "gone"])
def test_a_checkpoint_with_damaged_best_weights_is_skipped(damage, fresh):
    folder, said = finished("spam-best", fresh()), []
    (best,) = (folder / "states").glob(f"*/step-000000004/{BEST}")
    data = bytearray(best.read_bytes())
    data[-1] ^= 1
    best.write_bytes(data) if damage == "a bit" else best.unlink()
    with states(folder, say=said.append) as saved:
        resumed = bytes_of(*train("spam-best", saved), folder / "out")
    assert [line.rpartition("/")[2] for line in said] == [
        "step-000000004 is incomplete: skipping it",
        "resuming after step 2",
    ]
    assert resumed == finish("spam-best", fresh())


def test_only_trainable_best_weights_are_saved(fresh):
    from llm.weights.tensors import read_tensors

    (state,) = (stopped_after(2, "spam-best", fresh()) / "states").glob("*/*")
    assert set(read_tensors(state / BEST)) == set(read_tensors(state / WEIGHTS))
    assert not any("wte" in name or "h.0." in name for name in read_tensors(state / BEST))


# Checkpoints on the disk


def state_folders(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "states").glob("*/*"))


def test_the_two_newest_are_kept(fresh):
    assert state_folders(finished("pretrain", fresh())) == ["step-000000004", "step-000000005"]


@pytest.mark.parametrize("task", TASKS)
def test_after_the_last_update_no_moments_are_saved(task, fresh):
    folder = finished(task, fresh())
    having = {state.name: (state / MOMENTS).exists() for state in (folder / "states").glob("*/*")}
    assert having == {"step-000000004": True, "step-000000005": False}
    assert finish(task, folder) == finish(task, fresh())


def damages() -> dict[str, Callable[[Path], object]]:
    def flip(name: str) -> Callable[[Path], object]:
        def damage(state: Path) -> None:
            data = bytearray((state / name).read_bytes())
            data[len(data) // 2] ^= 1
            (state / name).write_bytes(data)

        return damage

    named = {f"a bit of {name}": flip(name) for name in (WEIGHTS, MOMENTS, HISTORY, MANIFEST)}
    named |= {f"no {name}": lambda s, name=name: (s / name).unlink() for name in (WEIGHTS, MOMENTS, HISTORY, MANIFEST)}
    named["truncated"] = lambda s: (s / WEIGHTS).write_bytes((s / WEIGHTS).read_bytes()[:-1])
    named["empty"] = lambda s: [path.unlink() for path in s.iterdir()]
    return named


@pytest.mark.parametrize("damage", damages())
def test_if_the_newest_checkpoint_is_damaged_the_one_before_is_loaded(damage, fresh):
    folder, said = stopped_after(STEPS - 1, "spam", fresh()), []
    (newest,) = (folder / "states").glob("*/step-000000004")
    damages()[damage](newest)
    with states(folder, say=said.append) as saved:
        resumed = bytes_of(*train("spam", saved), folder / "out")
    assert [re.sub("the checkpoint .*step", "step", line) for line in said] == [
        "step-000000004 is incomplete: skipping it",
        "resuming after step 2",
    ]
    assert resumed == finish("spam", fresh())


@pytest.mark.parametrize("kind", ["file", "link to nothing", "link to a folder"])
def test_what_is_no_folder_in_place_of_a_checkpoint_is_skipped(kind, fresh):
    folder, said = stopped_after(STEPS - 1, "spam", fresh()), []
    (newest,) = (folder / "states").glob("*/step-000000004")
    moved = newest.rename(folder / "moved")
    if kind == "file":
        newest.write_text("no state")
    else:
        newest.symlink_to(moved if kind == "link to a folder" else folder / "nothing")
    with states(folder, say=said.append) as saved:
        resumed = bytes_of(*train("spam", saved), folder / "out")
    assert said[-1] == f"resuming after step {4 if kind == 'link to a folder' else 2}"
    assert moved.is_dir()
    assert resumed == finish("spam", fresh())


@pytest.mark.parametrize("place", ["states", "states/*"])
def test_a_file_in_place_of_the_folder_of_checkpoints_is_refused_before_the_training(place, fresh):
    folder = stopped_after(2, "spam", fresh())
    (path,) = folder.glob(place)
    shutil.rmtree(path)
    path.write_text("mine")
    with pytest.raises(UserError, match="is not a folder") as caught, states(folder):
        raise AssertionError("the training begins")
    assert (caught.value.where, caught.value.code) == (str(path), DATA)
    assert path.read_text() == "mine"


def test_if_all_checkpoints_are_damaged_the_run_starts_over(fresh):
    folder, said = finished("spam", fresh()), []
    for manifest in (folder / "states").rglob(MANIFEST):
        manifest.unlink()
    with states(folder, say=said.append) as saved:
        resumed = bytes_of(*train("spam", saved), folder / "out")
    assert len(said) == 2
    assert resumed == finish("spam", fresh())


def test_with_other_parameters_the_run_starts_over_and_deletes_old_checkpoints(fresh):
    folder, said = stopped_after(4, "spam", fresh()), []
    (old,) = (folder / "states").iterdir()
    with states(folder, replace(TRAIN, lr=0.02), said.append) as saved:
        assert said == ["parameters, data or code changed since the interrupted run (lr): starting over"]
        assert not old.exists()
        train("spam", saved)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (TRAIN, ["data"]),
        (replace(TRAIN, batch_size=3, clip_norm=None), ["batch_size", "clip_norm", "data"]),
    ],
    ids=["data", "data and parameters"],
)
def test_all_differences_from_the_interrupted_run_are_named(config, named, fresh):
    folder, said = stopped_after(4, "spam", fresh()), []
    (folder / "data").write_text("other rows")
    with states(folder, config, said.append):
        pass
    (line,) = said
    names = re.search(r"\((.*)\): starting over", line)[1].replace((folder / "data").as_posix(), "data")
    assert sorted(names.split(", ")) == named


def test_a_damaged_checkpoint_of_another_run_is_deleted(fresh):
    folder, said = stopped_after(4, "spam", fresh()), []
    for history in (folder / "states").rglob(HISTORY):
        history.write_text("[]")
    with states(folder, replace(TRAIN, lr=0.02), said.append):
        pass
    assert said == ["parameters, data or code changed since the interrupted run: starting over"]


def test_a_file_of_a_file_manager_is_no_interrupted_run(fresh):
    folder, said = stopped_after(4, "spam", fresh()), []
    (folder / "states" / ".DS_Store").write_text("")
    with states(folder, say=said.append) as saved:
        train("spam", saved)
    assert said == ["resuming after step 4"]


def test_the_fingerprint_depends_on_parameters_data_and_code(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("1")
    seen = [first := fingerprint(TRAIN, [data])]
    assert fingerprint(TRAIN, [data]) == first
    assert fingerprint(replace(TRAIN, save_every=1), [data]) == first
    seen += [fingerprint(replace(TRAIN, lr=0.02), [data]), fingerprint(MODEL, [data]), fingerprint(TRAIN, [])]
    (data / "a").write_text("2")
    seen.append(fingerprint(TRAIN, [data]))
    monkeypatch.setattr("llm.common.code.loaded", lambda: {"llm/model/gpt.py": "edited"})
    seen.append(fingerprint(TRAIN, [data]))
    assert len({json.dumps(decides, sort_keys=True) for decides in seen}) == 6


def test_frozen_weights_are_not_saved_and_tied_ones_once(fresh):
    from llm.weights.tensors import read_tensors

    (state,) = (stopped_after(2, "spam", fresh()) / "states").glob("*/*")
    names = set(read_tensors(state / WEIGHTS))
    assert "score.weight" in names
    assert not any("wte" in name or "h.0." in name for name in names)
    (state,) = (stopped_after(2, "pretrain", fresh()) / "states").glob("*/*")
    assert "lm_head.weight" not in read_tensors(state / WEIGHTS)


def test_a_checkpoint_has_no_pickle(fresh):
    (state,) = (stopped_after(2, "pretrain", fresh()) / "states").glob("*/*")
    assert sorted(path.name for path in state.iterdir()) == sorted([WEIGHTS, MOMENTS, HISTORY, MANIFEST])
    assert json.loads((state / MANIFEST).read_text()) == {n: sha256(state / n) for n in (WEIGHTS, MOMENTS, HISTORY)}


def test_null_saves_nothing(tmp_path):
    from llm.train import resume

    with resume.checkpoints(tmp_path / "states", TRAIN, [], None, print) as saved:
        train("spam", saved)
    assert not (tmp_path / "states").exists()


# Continuing after the end


def test_a_run_continues_from_a_saved_model_and_optimizer(tmp_path):
    """Two epochs in one run equal two runs of one epoch only if the optimizer is saved in between."""
    data = SequentialBatches(Rows("pretrain"), 6)
    config = replace(TRAIN, schedule="constant", warmup_steps=0)
    shape = replace(MODEL, dropout=0.0)
    torch.manual_seed(5)
    begun = GPT(shape)
    optimizer = tmp_path / "optimizer.safetensors"

    def passes(model: GPT, count: int, *callbacks: Callback) -> None:
        task = Task(model, losses.next_token, ConcatBatches(*[data] * count), {"train": data, "val": data})
        fit(task, config, FP32, 3, callbacks)

    whole, first = copy.deepcopy(begun), copy.deepcopy(begun)
    passes(whole, 2)
    passes(first, 1, SaveOptimizer(optimizer))
    with_it, without = copy.deepcopy(first), copy.deepcopy(first)
    passes(with_it, 1, WarmStart(optimizer))
    passes(without, 1)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), with_it.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(whole.parameters(), without.parameters(), strict=True))


def test_the_optimizer_can_be_saved_after_resuming_from_the_last_update(tmp_path):
    """After a kill between the last update and the end, the file is the same."""

    def end(checkpoints: Callback) -> bytes:
        torch.manual_seed(5)
        model, data = GPT(MODEL), SequentialBatches(Rows("pretrain"), 6)
        path = tmp_path / "optimizer.safetensors"
        task = Task(model, losses.next_token, data, {"train": data, "val": data})
        fit(task, TRAIN, FP32, 3, [SaveOptimizer(path), checkpoints])
        return path.read_bytes()

    whole = end(Callback())
    said: list[str] = []
    assert end(TrainingCheckpoints(tmp_path / "states", 2, said.append, keep_moments=True)) == whole
    assert said == []
    assert end(TrainingCheckpoints(tmp_path / "states", 2, said.append, keep_moments=True)) == whole
    assert said == ["resuming after step 4"]


# An edit of the code before the run is resumed

LOADED = [  # a module of each package that the tiny run imports
    "llm/common/params.py",
    "llm/data/batches.py",
    "llm/runtime/device.py",
    "llm/model/gpt.py",
    "llm/evaluate/accuracy.py",
    "llm/weights/tensors.py",
    "llm/generate/decoding.py",
    "llm/train/optim.py",
]


RunCopy = Callable[..., Ended]


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Iterator[tuple[Path, Path, RunCopy]]:
    """A copy of the code, the folder of a run interrupted after step 3, and how to run it in a folder.

    The path of the folder is part of the fingerprint.
    """
    root, stopped = tmp_path_factory.mktemp("copied"), tmp_path_factory.mktemp("stopped")
    for name in ("llm", "stages", "tests"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (stopped / "data").write_text("rows")
    with Forks(PACKAGES) as forks:

        def run(folder: Path, *words: str) -> Ended:
            return forks.run(folder, RUN, "pretrain", *words, environment=os.environ | {"PYTHONPATH": str(root)})

        assert run(stopped, "SIGTERM@3").code == 143
        yield root, stopped, run


@pytest.mark.slow
@pytest.mark.parametrize("path", LOADED)
def test_after_editing_a_comment_the_run_resumes_and_after_editing_code_it_starts_over(path, copied, tmp_path):
    root, stopped, run = copied
    text = (root / path).read_text()
    said = {}
    try:
        for kind, edit in [("comment", "# a comment\n"), ("code", "ADDED = 1\n")]:
            shutil.copytree(stopped, tmp_path / kind)
            (root / path).write_text(text + edit)
            done = run(stopped)
            shutil.rmtree(stopped)
            shutil.move(tmp_path / kind, stopped)  # restore it
            assert done.code == 0, done.err
            said[kind] = done.err.splitlines()
    finally:
        (root / path).write_text(text)
    assert said["comment"] == ["resuming after step 3"]
    assert said["code"] == [f"parameters, data or code changed since the interrupted run ({path}): starting over"]


# Several ranks


def test_the_parts_of_ranks_are_read_as_whole_tensors(tmp_path: Path) -> None:
    whole = {"matrix": torch.arange(15.0).view(5, 3), "short": torch.ones(2), "step": torch.tensor(3.0)}
    for rank in range(11):  # as torch.chunk divides; of a short tensor, most ranks have nothing
        parts = {name: [*tensor.chunk(11), *[tensor[:0]] * 11][rank] for name, tensor in whole.items() if tensor.dim()}
        kept = {name: part.contiguous() for name, part in parts.items()}
        write_tensors(tmp_path / _of_rank(WEIGHTS, rank, 11), kept | {"step": whole["step"]})
    found = _stored(tmp_path, WEIGHTS)
    assert found is not None
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in whole.items())
    assert _stored(tmp_path, MOMENTS) is None
