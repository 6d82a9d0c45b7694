"""The pipeline as its user runs it: `dvc repro` in a copy of the project, on the smoke profile."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from llm import params
from stages.check import AllParams

ROOT = Path(__file__).parents[2]
STAGES = [
    "check",
    "download@corpus",
    "download@instructions",
    "download@spam",
    "evaluate_with_judge",
    "finetune_instruct",
    "finetune_spam",
    "import_gpt2@gpt2-sample",
    "pretrain",
    "respond",
    "tokenize@corpus",
    "tokenize@instructions",
    "tokenize@spam",
    "tokenizer",
]


class Project:
    """A copy of the project in a folder of its own, without git."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("llm", "stages", "configs", "data/sample", ".dvc/config", "dvc.yaml", "params.yaml", ".dvcignore"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, folder / name)
        self.run("dvc", "config", "--local", "core.no_scm", "true")

    def run(self, *words: str, ok: bool = True) -> subprocess.CompletedProcess:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        done = subprocess.run(words, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert not ok or done.returncode == 0, done.stdout + done.stderr
        return done

    def repro(self, *words: str, ok: bool = True) -> list[str]:
        """Run `dvc repro`; return the stages that ran."""
        output = self.run("dvc", "repro", *words, ok=ok).stdout
        return sorted(line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage"))

    def set(self, **changes: object) -> None:
        params.apply([changes], AllParams, self.folder / "params.yaml")

    def metrics(self, stage: str) -> dict:
        return json.loads((self.folder / "reports" / stage / "metrics.json").read_text())

    def bytes(self) -> dict[str, bytes]:
        """Everything the pipeline has written, by name."""
        paths = [path for name in ("data", "models", "reports") for path in (self.folder / name).rglob("*")]
        return {str(p.relative_to(self.folder)): p.read_bytes() for p in paths if p.is_file()}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("a path with spaces") / "projekt ü")
    params.overlay(ROOT / "configs" / "smoke.yaml", AllParams, made.folder / "params.yaml")
    made.ran = made.repro()
    return made


def test_every_stage_runs(project):
    assert project.ran == STAGES


def test_a_second_repro_runs_nothing(project):
    assert project.repro() == []


def test_an_edit_of_the_judge_reruns_only_the_judge(project):
    project.set(judge={"prompt": "guarded"})
    assert project.repro() == ["check", "evaluate_with_judge"]


def test_an_edit_of_the_spam_model_reruns_only_it(project):
    project.set(finetune_spam={"lr": 0.0002})
    assert project.repro() == ["check", "finetune_spam"]


def test_bad_parameters_cost_no_output(project):
    before = project.bytes()
    text = (project.folder / "params.yaml").read_text()
    (project.folder / "params.yaml").write_text(text.replace("n_head: 2", "n_head: 5"))
    done = project.run("dvc", "repro", ok=False)
    (project.folder / "params.yaml").write_text(text)
    assert done.returncode != 0
    assert "error: params.yaml: model.n_embd: 32 is not divisible by n_head (5) | fix: take 30 or 35" in done.stderr
    assert project.bytes() == before


def test_an_edit_of_the_data_reruns_what_depends_on_it(project):
    corpus = project.folder / "data/sample/corpus.txt"
    corpus.write_text(corpus.read_text() + "\n\nOne more document.\n")
    ran = project.repro("download")
    assert ran == ["download@corpus"]


def test_reports_hold_the_fixed_names(project):
    pretrain = project.metrics("pretrain")
    assert {"train_loss", "val_loss", "best_val_loss", "val_bits_per_byte"} <= set(pretrain)
    spam = project.metrics("finetune_spam")
    assert all(0 <= spam[f"{split}_accuracy"] <= 1 for split in ("train", "validation", "test"))
    judge = project.metrics("evaluate_with_judge")
    assert judge["n_scored"] + judge["n_unparsed"] + judge["n_refused"] + judge["n_failed"] == judge["n_items"] == 110
    scores = json.loads((project.folder / "reports/evaluate_with_judge/scores.json").read_text())
    assert [set(record) >= {"status", "score"} for record in scores] == [True] * 110
    responses = json.loads((project.folder / "reports/respond/responses.json").read_text())
    assert [list(entry) for entry in responses] == [["instruction", "input", "output", "model_response"]] * 110


def test_the_loss_curve_starts_before_training(project):
    lines = (project.folder / "reports/pretrain/loss.csv").read_text().splitlines()
    assert lines[0] == "step,tokens_seen,train_loss,val_loss,lr"
    assert lines[1].startswith("0,0,")


def test_dvc_reads_its_own_small_floats_as_numbers(project):
    """`dvc exp run -S x=5e-5` writes 5e-05, which YAML 1.1 parsers take for a text."""
    path = project.folder / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("min_lr: 0.0002 ", "min_lr: 5e-05 "))
    assert (
        params.read(AllParams, path).pretrain.min_lr
        == YAML(typ="safe").load(path.read_text())["pretrain"]["min_lr"]
        == 5e-5
    )
    path.write_text(before)
