"""The three training stages, killed at every rename and stopped by signals: run again, they leave the same bytes."""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path

import pytest

from llm.train.compiled import COMPILERS
from tests.forks import Forks
from tests.stages.forked import build
from tests.stages.project import Project

pytestmark = pytest.mark.slow

BEFORE = [
    "check",
    *(f"download {item}" for item in ("corpus", "spam", "instructions")),
    "tokenizer",
    *(f"tokenize_{item}" for item in ("corpus", "spam", "instructions")),
    "pretrain",
    "import_gpt2 gpt2-sample",
]
TRAINING = {"pretrain": "pretrain", "finetune_spam": "spam", "finetune_instruct": "instruct"}  # and its model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Project:
    """The smoke project on a part of the sample, without MLflow, with what the three stages read and write."""
    often = {"eval_every": 4, "save_every": 3, "batch_size": 32, "dropout": 0.1}
    made = Project.small(
        tmp_path_factory.mktemp("kill") / "project",
        model={"dropout": 0.1},
        pretrain={
            "eval_every": 4,
            "save_every": 3,
            "short_windows": {"steps": 4, "context": 48, "batch_size": 16},
        },
        finetune_spam=often,
        finetune_instruct={**often, "batch_size": 16, "bucket_batches": 4},
    )
    build(made, forks, *BEFORE, "finetune_spam", "finetune_instruct")
    return made


def make_older(project: Project, stage: str) -> None:
    """As before a stage that has run once: other outputs, one of which nothing writes any more; no states."""
    shutil.rmtree(project.folder / ".work")
    for folder in (project.folder / "models" / TRAINING[stage], project.folder / "reports" / stage):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "metrics.json").write_text("older")
    (project.folder / "models" / TRAINING[stage] / "no longer written").write_text("older")


@pytest.mark.long
@pytest.mark.parametrize("stage", TRAINING)
def test_killed_at_any_rename(stage, built, forks, tmp_path):
    project, good = built.copy(tmp_path / "project"), built.bytes()
    (project.folder / ".work").mkdir()
    kills, resumed = 0, 0
    while True:
        make_older(project, stage)
        if not forks.run(project.folder, f"stages.{stage}", kill_at=kills + 1).killed:
            break
        kills += 1
        resumed += "resuming after step" in build(project, forks, stage)
        assert project.bytes() == good, kills
        assert not (project.folder / ".work" / stage / "states").exists()
    assert kills > 20
    assert 10 < resumed < kills


# The rest in an interpreter of their own or by `Project.run`: `forks` has more of our code loaded, and a run that is
# resumed must have the same


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_the_stage_still_imports_is_one_line(number, code, tmp_path):
    (tmp_path / "torch.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    stage = Project(Path(__file__).parents[2]).start("stages.respond", env={"PYTHONPATH": str(tmp_path)})
    assert stage.stdout.readline() == "importing\n"
    stage.send_signal(number)
    _, err = stage.communicate(timeout=120)
    assert stage.returncode == code
    assert re.fullmatch(r"error: \w+: by SIG\w+; nothing was published \| fix: run the same command again\n", err)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_a_signal_saves_and_the_next_run_resumes(number, code, built, tmp_path):
    project = built.copy(tmp_path / "project")
    project.set(finetune_instruct={"epochs": 8})
    project.run("stages.finetune_instruct")
    good = project.bytes()
    shutil.rmtree(project.folder / "models/instruct")
    shutil.rmtree(project.folder / "reports/finetune_instruct")
    missing = project.bytes()

    err = stopped(project, number, code)

    saved = re.fullmatch(r"error: \w+: by SIG\w+; step (\d+) is saved, nothing was published \| fix: .*", err[-1])
    assert saved, err
    assert project.bytes() == missing
    assert f"resuming after step {saved[1]}" in project.run("stages.finetune_instruct").stderr
    assert project.bytes() == good


def stopped(project: Project, number: signal.Signals, code: int, stage: str = "finetune_instruct") -> list[str]:
    """Send the signal after the first evaluation; what the stage says."""
    with project.start(f"stages.{stage}") as process:
        begun = ""
        while "step 4: " not in begun and (line := process.stderr.readline()):
            begun += line
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == code, begun + err
    return err.splitlines()


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler here")
def test_compiled_passes_are_as_good_and_resume(built, tmp_path):
    project = built.copy(tmp_path / "project")
    plain = project.metrics("pretrain")
    project.set(pretrain={"compile": True})
    project.run("stages.pretrain")
    good, metrics = project.bytes(), project.metrics("pretrain")
    assert metrics["val_loss"] == pytest.approx(plain["val_loss"], abs=0.05)  # other numbers for dropout
    shutil.rmtree(project.folder / "models/pretrain")
    stopped(project, signal.SIGTERM, 143, "pretrain")
    assert "resuming after step" in project.run("stages.pretrain").stderr
    assert project.bytes() == good
    assert good["models/pretrain/model.safetensors"] != built.bytes()["models/pretrain/model.safetensors"]


def test_other_parameters_start_anew(built, tmp_path):
    project = built.copy(tmp_path / "project")
    project.set(finetune_instruct={"epochs": 8})
    stopped(project, signal.SIGTERM, 143)
    (old,) = states(project)
    project.set(finetune_instruct={"epochs": 1})
    said = project.run("stages.finetune_instruct").stderr
    assert "starting over" in said
    assert "resuming" not in said
    assert not old.exists()
    assert project.bytes("models", "reports") == built.bytes("models", "reports")


def test_another_model_to_start_from_starts_anew(built, tmp_path):
    project = built.copy(tmp_path / "project")
    project.set(finetune_instruct={"epochs": 8})
    stopped(project, signal.SIGTERM, 143)
    project.set(pretrain={"lr": 0.001})
    project.run("stages.pretrain")
    project.run("stages.import_gpt2", "gpt2-sample")
    assert "starting over" in project.run("stages.finetune_instruct").stderr


def states(project: Project) -> list[Path]:
    return list((project.folder / ".work/finetune_instruct/states").iterdir())
