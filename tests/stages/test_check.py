"""`check` finds what names nothing, before DVC removes an output for it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llm.common import files, params, profiles
from llm.tracking.config import Gate
from stages.check import links_outside, missing_sources, wrong_gates
from stages.schema import AllParams
from stages.sections.pretrain import ShortWindows

ROOT = Path(__file__).parents[2]


@pytest.fixture
def everything(monkeypatch):
    monkeypatch.chdir(ROOT)
    return params.read_all(AllParams)


def test_the_committed_params_name_what_is_there(everything):
    assert list(missing_sources(everything)) == []


@pytest.mark.parametrize("profile", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_names_what_is_there(profile, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    shutil.copyfile("params.yaml", tmp_path / "params.yaml")
    profiles.use(profile, AllParams, tmp_path / "params.yaml")
    assert list(missing_sources(params.read(AllParams, tmp_path / "params.yaml"))) == []


def test_a_mistyped_model_folder_is_named_with_the_nearest(everything):
    spam = replace(everything.finetune_spam, init_from="models/gpt2-smaple")
    (error,) = missing_sources(replace(everything, finetune_spam=spam))
    assert error.where == "params.yaml: finetune_spam.init_from"
    assert error.fix == "did you mean models/gpt2-sample?"


def test_the_spam_filter_may_start_from_the_model_that_a_stage_tunes_before(everything, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # nothing has run here
    spam = replace(everything.finetune_spam, init_from="models/instruct")
    instruct = replace(everything.finetune_instruct, init_from="models/instruct")  # itself
    named = {error.where for error in missing_sources(replace(everything, finetune_spam=spam))}
    assert "params.yaml: finetune_spam.init_from" not in named
    named = {error.where for error in missing_sources(replace(everything, finetune_instruct=instruct))}
    assert "params.yaml: finetune_instruct.init_from" in named


def test_a_starting_point_has_a_configuration(everything, tmp_path):
    spam = replace(everything.finetune_spam, init_from=str(tmp_path))
    (error,) = missing_sources(replace(everything, finetune_spam=spam))
    assert str(error).startswith(f"params.yaml: finetune_spam.init_from: '{tmp_path}' holds no config.json")
    (tmp_path / "own.gguf").touch()
    for path in (tmp_path, tmp_path / "own.gguf"):
        (error,) = missing_sources(replace(everything, finetune_spam=replace(spam, init_from=str(path))))
        assert error.fix == "import it below import_gpt2, and name models/ITEM"
    (tmp_path / "config.json").write_text("{}")  # the control; what it says is looked at with the weights
    assert list(missing_sources(replace(everything, finetune_spam=spam))) == []


def test_reasoning_may_start_from_a_tokenizer(everything, tmp_path):
    for name in ("tokenizer.json", "vocab.json"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / name).write_text("{}")
        folder = str(tmp_path / name)
        sft, spam = (
            replace(everything.reason_sft, init_from=folder),
            replace(everything.finetune_spam, init_from=folder),
        )
        assert list(missing_sources(replace(everything, reason_sft=sft))) == []
        (error,) = missing_sources(replace(everything, finetune_spam=spam))
        assert "holds no config.json" in str(error)


@pytest.mark.parametrize("model", ["models/instruct", "models/preference_base", "models/dpo"])
def test_every_stage_may_start_from_a_model_that_another_makes(everything, model, monkeypatch, tmp_path):
    before = {error.where for error in missing_sources(everything)}
    changed = replace(
        everything,
        finetune_spam=replace(everything.finetune_spam, init_from=model),
        reason_sft=replace(everything.reason_sft, init_from=model),
        reason_rl=replace(everything.reason_rl, init_from=model),
        reason_student=replace(everything.reason_student, teacher=model),
        reason_models=everything.reason_models | {"mine": model},
    )
    shutil.copytree(ROOT / "data/sample", tmp_path / "data/sample")
    monkeypatch.chdir(tmp_path)  # nothing has run here
    assert {error.where for error in missing_sources(changed)} == before


def test_a_classifier_is_no_starting_point(everything):
    (error,) = missing_sources(replace(everything, reason_models={"mine": "models/spam"}))
    assert "'models/spam' is the classifier of finetune_spam, not a language model" in str(error)


def test_folders_of_outputs_are_no_links_out_of_the_project(tmp_path, monkeypatch):
    (tmp_path / "project/inside").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    Path("models").symlink_to(tmp_path / "other")
    Path("data").symlink_to("inside")
    (error,) = links_outside()
    assert (error.where, "outside of the project" in error.what) == ("models", True)


def test_the_prompt_chat_needs_a_chat_template(everything, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    changed = replace(everything.finetune_instruct, prompt="chat", init_from=str(tmp_path))
    (error,) = missing_sources(replace(everything, finetune_instruct=changed))
    assert str(error).startswith(f"params.yaml: finetune_instruct.prompt: chat, but '{tmp_path}' has no chat template")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert list(missing_sources(replace(everything, finetune_instruct=changed))) == []
    made_later = replace(changed, init_from="models/pretrain")
    assert list(missing_sources(replace(everything, finetune_instruct=made_later))) == []


@pytest.mark.parametrize(("item", "fine"), [("spam", False), ("instructions", False), ("corpus", True)])
def test_a_folder_is_a_source_of_text_only(everything, item, fine):
    source = {item: replace(everything.download[item], source="data/sample")}
    named = [error.where for error in missing_sources(replace(everything, download=everything.download | source))]
    assert named == ([] if fine else [f"params.yaml: download.{item}.source"])


@pytest.mark.parametrize(("shard", "fine"), [(257, True), (256, False)])
def test_a_shard_holds_a_window_and_its_target(everything, shard, fine):
    corpus = replace(everything.tokenize.corpus, shard_tokens=shard)
    sharded = replace(everything, tokenize=replace(everything.tokenize, corpus=corpus))
    short = replace(sharded.pretrain, context=128, short_windows=ShortWindows(steps=1, context=256, batch_size=1))
    for windows in (short, replace(everything.pretrain, context=256)):
        found = [name for name, _, _ in replace(sharded, pretrain=windows).problems()]
        assert found == ([] if fine else ["tokenize.corpus.shard_tokens"])


@pytest.mark.parametrize(("tokens", "fine"), [(255, True), (256, False)])
def test_a_sample_leaves_room_for_its_prompt(everything, tokens, fine):
    sampling = replace(everything.pretrain, sample_tokens=tokens)
    found = [name for name, _, _ in replace(everything, pretrain=sampling).problems()]
    assert everything.model.context_length == 256
    assert found == ([] if fine else ["pretrain.sample_tokens"])


def test_a_missing_file_of_the_user_is_named(everything):
    mine = everything.download | {"spam": replace(everything.download["spam"], source="my messages.tsv")}
    (error,) = missing_sources(replace(everything, download=mine))
    assert str(error).startswith("params.yaml: download.spam.source: 'my messages.tsv' is not on disk")


def test_a_url_of_a_model_is_to_be_downloaded(everything):
    made = everything.import_gpt2
    imported = made | {"gpt2": replace(made["gpt2-sample"], source="https://h/gpt2")}
    (error,) = missing_sources(replace(everything, import_gpt2=imported))
    assert str(error).startswith("params.yaml: import_gpt2.gpt2.source: 'https://h/gpt2' is not on disk")
    assert error.fix == "declare its files below download, and name data/raw/ITEM"


def test_a_missing_vocabulary_is_named(everything):
    other = replace(everything.tokenizer, source="data/raw/vocab")  # no such download in the sample profile
    assert [error.where for error in missing_sources(replace(everything, tokenizer=other))] == [
        "params.yaml: tokenizer.source"
    ]


def test_an_imported_model_may_not_take_the_name_of_another_output(everything):
    imported = {"spam": everything.import_gpt2["gpt2-sample"]}
    assert "import_gpt2.spam" in [key for key, _, _ in replace(everything, import_gpt2=imported).problems()]


@pytest.mark.parametrize(
    ("device", "compiled", "rate", "fine"),
    [
        ("cpu", False, 0.1, True),
        ("cpu", True, 0.0, True),  # nothing is drawn
        ("cpu", True, 0.1, False),
        ("cuda", False, 0.1, False),
    ],
)
def test_packed_dropout_is_for_cpus_and_not_compiled(everything, device, compiled, rate, fine):
    changed = replace(
        everything,
        model=replace(everything.model, dropout_attention=rate, dropout_random="packed"),
        runtime=replace(everything.runtime, device=device, kernels="native"),
        pretrain=replace(everything.pretrain, compile=compiled),
    )
    assert [key for key, _, _ in changed.problems()] == ([] if fine else ["model.dropout_random"])
    assert not list(replace(changed, model=replace(changed.model, dropout_random="each")).problems())


@pytest.mark.parametrize(("device", "fine"), [("cpu", True), ("cuda", False), ("mps", False)])
def test_packed_dropout_of_the_reasoning_model_is_for_cpus_too(everything, device, fine):
    changed = replace(
        everything,
        reason_model=replace(everything.reason_model, dropout_random="packed"),
        runtime=replace(everything.runtime, device=device, kernels="native"),
    )
    assert [key for key, *_ in changed.problems()] == ([] if fine else ["reason_model.dropout_random"])


@pytest.mark.parametrize(("kernels", "compiled", "fine"), [("portable", True, False), ("native", True, True)])
def test_portable_kernels_are_not_compiled(everything, kernels, compiled, fine):
    changed = replace(
        everything,
        runtime=replace(everything.runtime, kernels=kernels),
        pretrain=replace(everything.pretrain, compile=compiled),
    )
    assert [key for key, *_ in changed.problems()] == ([] if fine else ["runtime.kernels"])


@pytest.mark.parametrize(
    ("model", "metric", "what", "fix"),
    [
        ("spma", "finetune_spam.test_accuracy", "no stage makes this model", "did you mean spam?"),
        ("spam", "finetune_spm.test_accuracy", "is of no stage", "did you mean finetune_spam?"),
        ("spam", "finetune_spam.test_acuracy", "no metric of models/spam", "did you mean finetune_spam.test_accuracy?"),
        ("spam", "respond.n_exact", "no metric of models/spam", "name one of "),
        ("instruct", "respond.n_exact", "", ""),
        ("dpo", "finetune_dpo.val_loss", "", ""),
    ],
)
def test_a_gate_names_a_metric_of_its_model(everything, model, metric, what, fix):
    gates = {model: Gate(metric, "higher")}
    found = list(wrong_gates(replace(everything, tracking=replace(everything.tracking, champion=gates))))
    assert len(found) == bool(what)
    for error in found:
        assert error.where.startswith(f"params.yaml: tracking.champion.{model}")
        assert what in error.what
        assert error.fix.startswith(fix)


@pytest.mark.parametrize(("left", "wrong"), [("all", 1), ("no value", 0), ("nothing", 0)])
def test_a_stage_that_failed_or_scored_nothing_does_not_make_its_metric_wrong(
    everything, monkeypatch, tmp_path, left, wrong
):
    shutil.copytree(ROOT / "reports", tmp_path / "reports")
    for name in ("params.yaml", "dvc.lock"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    report = Path("reports/evaluate_with_judge/metrics.json")
    md5 = files.dvc_md5(report)
    if left == "no value":
        files.write_json(report, files.read_json(report) | {"score_men": None})
        files.write_text("dvc.lock", Path("dvc.lock").read_text().replace(md5, files.dvc_md5(report)))
    elif left == "nothing":
        report.unlink()
    gates = {"instruct": Gate("evaluate_with_judge.score_men", "higher")}
    found = list(wrong_gates(replace(everything, tracking=replace(everything.tracking, champion=gates))))
    assert len(found) == wrong


def test_before_the_first_run_the_stage_of_a_gate_is_looked_at(everything, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    gates = {"spam": Gate("finetune_spam.of_my_label", "higher")}
    assert list(wrong_gates(replace(everything, tracking=replace(everything.tracking, champion=gates)))) == []


def test_the_committed_gates_are_right(everything):
    assert everything.tracking.champion
    assert list(wrong_gates(everything)) == []
