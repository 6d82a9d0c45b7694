"""The pipeline as its user runs it: `dvc repro` in a copy of the project, on the smoke profile."""

import json
from typing import Any

import pytest
from ruamel.yaml import YAML
from safetensors.torch import load_file

from llm.common import params, profiles
from stages.schema import AllParams
from tests.stages.project import ROOT, Project

pytestmark = pytest.mark.slow

SECONDS = {f"seconds/{part}" for part in ("start_up", "data", "compute", "save")}
BUILT = ("data", "models", "reports")
STAGES = [
    "check",
    "download@corpus",
    "download@instructions",
    "download@reasoning",
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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[str]]:
    """The project after its first `dvc repro`, and the stages that ran."""
    made = Project.create(tmp_path_factory.mktemp("a path with spaces") / "projekt ü")
    profiles.use(ROOT / "configs" / "smoke.yaml", AllParams, made.folder / "params.yaml")
    return made, made.repro()


@pytest.fixture(scope="module")
def project(built) -> Project:
    return built[0]


def test_every_stage_runs(built):
    assert built[1] == STAGES


def test_a_second_repro_runs_nothing(project):
    assert project.repro() == []


@pytest.fixture(scope="module")
def recorded(project) -> dict[str, Any]:
    """The runs of the stages in MLflow, by name."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project.folder}/mlflow.db")
    (experiment,) = (found for found in client.search_experiments() if found.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    return {run.info.run_name: run for run in runs if "mlflow.parentRunId" in run.data.tags}


def test_mlflow_tells_what_the_time_of_a_stage_went_into(project, recorded):
    spent = {name: {k: v for k, v in run.data.metrics.items() if k in SECONDS} for name, run in recorded.items()}
    assert {name.replace("@", ".") for name in spent} == {name.replace("@", ".") for name in STAGES}
    for name, run in recorded.items():
        parts = spent[name]
        assert parts.keys() == SECONDS
        assert min(parts.values()) >= 0
        ran = (run.info.end_time - run.info.start_time) / 1000
        assert sum(parts.values()) - parts["seconds/start_up"] <= ran + 0.5
        assert 0.05 < parts["seconds/start_up"] < 60
    computing = {name for name, parts in spent.items() if parts["seconds/compute"] > 0}
    trained = {"pretrain", "finetune_spam", "finetune_instruct"}
    assert computing == trained | {"respond", "evaluate_with_judge"}
    assert not any(b"seconds/" in data for data in project.bytes("reports").values())


def test_mlflow_has_each_parameter_under_its_full_key(project, recorded):
    """The comparison of runs would else show differences between stages that are none."""
    values = params.flat(params.read_all(AllParams, project.folder / "params.yaml"))
    texts = {key.replace("@", "."): str(value) for key, value in values.items()}
    for name, run in recorded.items():
        assert run.data.params.items() <= texts.items(), name
    assert recorded["tokenize@spam"].data.params["tokenize.spam.reading"] == "strict"


def test_an_edit_of_the_judge_reruns_only_the_judge(project):
    project.set(judge={"prompt": "guarded"}, tracking={"enabled": False})  # from here on, stages may run in forks
    assert project.repro() == ["check", "evaluate_with_judge"]


def test_an_edit_of_the_spam_model_reruns_only_it(project):
    project.set(finetune_spam={"lr": 0.0002})
    assert project.repro() == ["check", "finetune_spam"]


def test_lora_publishes_merged_models_with_their_adapters_beside(project):
    lora = {"rank": 4, "alpha": 8.0, "scaling": "alpha/rank"}
    for section in ("finetune_spam", "finetune_instruct"):
        project.set(**{section: {"trainable": "lora", "lora": lora}})
    assert project.repro() == ["check", "evaluate_with_judge", "finetune_instruct", "finetune_spam", "respond"]
    size = json.loads((project.folder / "models/instruct/config.json").read_text())
    width, words = size["n_embd"], size["vocab_size"]
    block = 4 * 4 * 2 * width + 2 * 4 * 5 * width  # query, key, value and projection; the two of the feed-forward part
    assert project.metrics("finetune_spam")["trainable_parameters"] == block + 4 * (width + 2)
    assert project.metrics("finetune_instruct")["trainable_parameters"] == block + 4 * (width + words)
    for model in ("spam", "instruct"):
        folder = project.folder / "models" / model
        assert json.loads((folder / "adapter.json").read_text()) == {"base": "models/gpt2-sample"} | lora
        assert not any("lora" in name for name in load_file(folder / "model.safetensors"))
        assert all("lora" in name for name in load_file(folder / "adapter.safetensors"))
    assert size["tie_word_embeddings"] is False


def test_bad_parameters_cost_no_output(project):
    before = project.bytes(*BUILT)
    text = (project.folder / "params.yaml").read_text()
    (project.folder / "params.yaml").write_text(text.replace("n_head: 2", "n_head: 5"))
    done = project.run("dvc", "repro", ok=False)
    (project.folder / "params.yaml").write_text(text)
    assert done.returncode != 0
    assert "error: params.yaml: model.n_embd: 32 is not divisible by n_head (5) | fix: take 30 or 35" in done.stderr
    assert project.bytes(*BUILT) == before


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


def test_every_accuracy_has_an_interval_and_stands_without_what_leaked(project):
    spam = project.metrics("finetune_spam")
    cut = json.loads((project.folder / "reports/tokenize/spam.json").read_text())
    names = [f"{split}_accuracy" for split in ("train", "validation", "test")]
    names += [f"{split}_accuracy_without_{kind}" for split in ("validation", "test") for kind in ("exact", "near")]
    for name in names:
        assert 0 <= spam[f"{name}_ci95_low"] <= spam[name] <= spam[f"{name}_ci95_high"] <= 1
        assert spam[f"{name}_ci95_low"] < spam[f"{name}_ci95_high"]
    for split in ("validation", "test"):
        exact, near = (cut[f"{split}_{kind}_in_train"] for kind in ("exact", "near"))
        assert spam[f"{split}_accuracy_n"] == cut[split]
        assert spam[f"{split}_accuracy_without_exact_n"] == cut[split] - exact
        assert spam[f"{split}_accuracy_without_near_n"] == cut[split] - exact - near


def test_the_judges_mean_stands_without_the_questions_that_were_trained_on(project):
    judge = project.metrics("evaluate_with_judge")
    cut = json.loads((project.folder / "reports/tokenize/instructions.json").read_text())
    exact, near = (cut[f"test_{kind}_in_train"] for kind in ("exact", "near"))
    assert judge["n_items_without_exact"] == 110 - exact
    assert judge["n_items_without_near"] == 110 - exact - near
    scores = json.loads((project.folder / "reports/evaluate_with_judge/scores.json").read_text())
    train = json.loads((project.folder / "data/instructions/train.json").read_text())
    asked = {(entry["instruction"], entry["input"]) for entry in train}
    rest = [one["score"] for one in scores if (one["instruction"], one["input"]) not in asked]
    assert judge["score_mean_without_exact"] == pytest.approx(sum(rest) / len(rest), rel=1e-5)


def test_the_loss_curve_starts_before_training(project):
    lines = (project.folder / "reports/pretrain/loss.csv").read_text().splitlines()
    assert lines[0] == "step,tokens_seen,train_loss,val_loss,lr"
    assert lines[1].startswith("0,0,")


def test_dvc_reads_its_own_small_floats_as_numbers(project):
    """`dvc exp run -S x=5e-5` writes 5e-05, which YAML 1.1 parsers take for a text."""
    path = project.folder / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("lr: 0.002 ", "lr: 5e-05 "))
    assert params.read(AllParams, path).pretrain.lr == YAML(typ="safe").load(path.read_text())["pretrain"]["lr"] == 5e-5
    path.write_text(before)
