"""The verdicts on two runs: paired where the examples are the same, unpaired where they are not."""

import io

import pytest
from rich.console import Console
from scipy.stats import binomtest

from llm.common import files
from llm.compare import comparison, terminal
from llm.compare.experiments import experiments
from llm.compare.headlines import FIGURES, compare
from llm.compare.snapshot import Snapshot, resolve
from tests.cached import cached_folder
from tests.llm.compare.conftest import N, experiment, git, write_run


def lines(**changes):
    """The five figures of HEAD and of a workspace with another run."""
    write_run(**{"wrong": (0, 1, 2), **changes})
    return dict(
        zip(("loss", "spam", "instruct", "exact", "judge"), compare(resolve("HEAD"), resolve("workspace")), strict=True)
    )


def test_five_figures_that_are_the_same(project):
    found = lines()
    assert len(found) == len(FIGURES) == 5
    assert {line.verdict.text for line in found.values()} == {"the same"}


def test_accuracy_is_tested_on_the_same_messages(project):
    found = lines(wrong=range(1, 15))["spam"]
    assert binomtest(1, 13).pvalue == pytest.approx(0.0034, abs=5e-5)  # 12 became wrong, 1 right
    assert found.verdict.text == "worse, p = 0.003"
    assert found.verdict.how.startswith("McNemar's exact test on the same 20 messages: 1 up, 12 down")
    assert found.interval[1] < 0


def test_a_small_difference_is_within_noise(project):
    assert lines(wrong=(0, 1))["spam"].verdict.text == "within noise, p = 1.00"


def test_other_messages_are_compared_unpaired(project):
    found = lines(wrong=range(17), spam="bb")["spam"]
    assert found.verdict.how == "unpaired: the runs have other messages"
    assert found.interval[0] < found.difference < found.interval[1]


def test_a_loss_has_no_test(project):
    found = lines(val_loss=1.5)["loss"]
    assert (found.difference, found.verdict.text) == (-0.5, "no test")


def tokens(**md5s):
    """Record the outputs that the tokens of pretraining come from."""
    lock = files.read_json("dvc.lock")
    found = {"data/raw/corpus": "t", "data/tokenizer": "k", "data/corpus": "c"} | md5s
    for path, md5 in found.items():
        lock["stages"][path] = {"cmd": path, "outs": [{"path": path, "md5": md5}]}
    files.write_json("dvc.lock", lock)


OTHER = "other tokens: the losses are not comparable, val_bits_per_byte is"
OTHER_TEXT = "other text and other tokens: neither the losses nor val_bits_per_byte are comparable"


@pytest.mark.parametrize(
    ("changed", "verdicts", "notes"),
    [
        ({}, ["no test", "the same"], []),
        ({"data/corpus": "c2"}, ["not comparable", "the same"], [OTHER]),
        ({"data/corpus": "c2", "data/tokenizer": "k2"}, ["not comparable", "not comparable"], [OTHER]),
        ({"data/corpus": "c2", "data/raw/corpus": "t2"}, ["not comparable", "the same"], [OTHER_TEXT]),
    ],
)
def test_losses_over_other_tokens_are_not_subtracted(project, changed, verdicts, notes):
    tokens()
    git("commit", "-q", "-a", "-m", "two")
    write_run(wrong=(0, 1, 2), val_loss=1.5)
    tokens(**changed)
    found = comparison.compare(resolve("HEAD"), resolve("workspace"))
    pretraining, _, instructions, *_ = found.headlines
    assert [pretraining.verdict.text, instructions.verdict.text] == verdicts
    assert pretraining.difference == (None if changed else -0.5)
    assert found.notes == notes


INSTRUCT = {"init_from": "models/a", "prompt": "alpaca", "mask_prompt": True, "batch_size": 8, "eval_batches": 5}


def tuned(data="d", model="m", **settings):
    """Record how the instructions were fine-tuned."""
    lock = files.read_json("dvc.lock")
    found = {key: value for key, value in (INSTRUCT | settings).items() if value is not None}
    deps = [{"path": "data/instructions", "md5": data}, {"path": found["init_from"], "md5": model}]
    lock["stages"]["finetune_instruct"] = {"deps": deps, "params": {"params.yaml": {"finetune_instruct": found}}}
    files.write_json("dvc.lock", lock)
    files.write_json("reports/finetune_instruct/metrics.json", {"val_loss": 1.0 if found == INSTRUCT else 1.5})


OTHER_ANSWERS = "the losses of the instructions are over other tokens, so they are not comparable"


@pytest.mark.parametrize(
    ("changed", "verdict", "how"),
    [
        ({"lr": 1.0}, "no test", "one number per run: no pairs to test"),
        ({"mask_prompt": None, "batch_size": None}, "no test", "one number per run: no pairs to test"),
        ({"mask_prompt": False}, "not comparable", None),
        ({"prompt": {"text": "{instruction}", "answer": "A:"}}, "not comparable", None),
        ({"data": "d2"}, "not comparable", None),
        ({"init_from": "models/b", "model": "other tokenizer"}, "not comparable", None),
        ({"init_from": "models/b", "model": "same tokenizer"}, "no test", "one number per run: no pairs to test"),
        (
            {"batch_size": 4},
            "no test",
            "one number per run: no pairs to test; perhaps of other validation batches, "
            "since finetune_instruct.batch_size differs",
        ),
    ],
)
def test_losses_of_other_instructions_are_not_subtracted(project, monkeypatch, changed, verdict, how):
    same = changed.get("model") == "same tokenizer"
    tokenizers = {"models/a/tokenizer.json": "a", "models/b/tokenizer.json": "a" if same else "b"}
    monkeypatch.setattr(Snapshot, "data_text", lambda _, path: tokenizers.get(path))
    tuned()
    git("commit", "-q", "-a", "-m", "two")
    tuned(**changed)
    found = comparison.compare(resolve("HEAD"), resolve("workspace"))
    line = found.headlines[2]
    assert (line.verdict.text, line.verdict.how) == (verdict, how or "the losses are means over other tokens")
    assert (line.difference is None, OTHER_ANSWERS in found.notes) == (how is None, how is None)


def test_the_table_of_experiments_marks_losses_over_other_tokens(project):
    from dvc.repo import Repo

    Repo.init(".").close()
    tuned()
    git("add", "-A")
    git("commit", "-q", "-m", "two")
    tuned(lr=1.0)
    experiment("same")
    tuned(mask_prompt=False)
    experiment("other")
    file = io.StringIO()
    terminal.show_experiments(experiments(), Console(file=file, width=100))
    said = file.getvalue()
    assert said.count("1.500~") == said.count("1.500 ") == 1
    assert "~ not comparable with that of the commit: the losses are means over other tokens" in said


def shown(found: comparison.Comparison) -> dict[str, str]:
    """The differences in the table of all figures, by name."""
    return {where: by for where, _, _, by in terminal.moved(found.figures)}


def test_no_loss_over_other_tokens_is_subtracted(project):
    losses = {"train_loss": 1.0, "val_loss": 1.0, "best_val_loss": 1.0, "val_bits_per_byte": 1.0, "tokens_seen": 1}
    more = {key: 2 * value for key, value in losses.items()}

    def run(values, text, tokenizer, prompt):
        tokens(**{"data/corpus": text, "data/raw/corpus": text, "data/tokenizer": tokenizer})
        lock = files.read_json("dvc.lock")
        params = {"params.yaml": {"reason_sft": {"prompt": prompt}}}
        lock["stages"] |= {"reason_distill@x": {"cmd": "x", "params": params}}
        files.write_json("dvc.lock", lock)
        for stage in ("pretrain", "finetune_instruct", "reason_distill/x"):
            files.write_json(f"reports/{stage}/metrics.json", values)

    run(losses, "t", "k", "p")
    git("add", "-A")
    git("commit", "-q", "-m", "two")
    run(more, "t", "k", "p")
    found = shown(comparison.compare(resolve("HEAD"), resolve("workspace")))
    assert set(found.values()) == {"+1"}
    run(more, "t", "k2", "p2")
    found = shown(comparison.compare(resolve("HEAD"), resolve("workspace")))
    assert {key for key, by in found.items() if by == "+1"} == {
        "pretrain: val_bits_per_byte",
        *(f"{stage}: tokens_seen" for stage in ("pretrain", "finetune_instruct", "reason_distill/x")),
        *(f"{stage}: val_bits_per_byte" for stage in ("finetune_instruct", "reason_distill/x")),
    }
    assert set(found.values()) == {"+1", "not comparable"}
    run(more, "t2", "k", "p")
    found = shown(comparison.compare(resolve("HEAD"), resolve("workspace")))
    assert found["pretrain: val_bits_per_byte"] == found["pretrain: train_loss"] == "not comparable"
    assert found["finetune_instruct: train_loss"] == "+1"


def test_a_tokenizer_is_known_by_the_model_in_the_cache(project, monkeypatch):
    from dvc.repo import Repo

    Repo.init(".").close()
    monkeypatch.setattr(Snapshot, "data_text", lambda *_: pytest.fail("it reads a tokenizer"))
    one, other = (cached_folder(project, {"tokenizer.json": text}) for text in ("one", "two"))

    def run(init_from, made):
        tuned(init_from=init_from, model=init_from)
        lock = files.read_json("dvc.lock")
        lock["stages"]["finetune_instruct"]["outs"] = [{"path": "models/instruct", "md5": made}]
        files.write_json("dvc.lock", lock)
        git("add", "-A")

    run("models/a", one)
    git("commit", "-q", "-m", "two")
    run("models/b", one)
    experiment("same")
    run("models/b", other)
    experiment("other")
    _, *found = experiments()
    assert {one.name: one.values[2].other_tokens for one in found} == {"same": False, "other": True}


def test_the_text_of_an_output_is_read_once(project, monkeypatch):
    read = []
    monkeypatch.setattr(Snapshot, "_read_data", lambda _, path: read.append(path))
    base = resolve("HEAD")
    assert [base.data_text("models/a/tokenizer.json") for _ in range(2)] == [None, None]
    assert read == ["models/a/tokenizer.json"]


def test_all_batches_are_the_same_at_every_batch_size(project):
    tuned(eval_batches=None)  # all
    git("commit", "-q", "-a", "-m", "two")
    tuned(eval_batches=None, batch_size=4)
    line = compare(resolve("HEAD"), resolve("workspace"))[2]
    assert line.verdict.how == "one number per run: no pairs to test"


def test_another_split_is_another_text(project):
    params = {"judge": {"prompt": "book"}, "seed": 1}
    write_run(wrong=(0, 1, 2), params=params | {"tokenize": {"corpus": {"split_by": "a"}}})
    tokens()
    git("commit", "-q", "-a", "-m", "two")
    write_run(wrong=(0, 1, 2), params=params | {"tokenize": {"corpus": {"split_by": "b"}}})
    tokens(**{"data/corpus": "c2"})
    assert comparison.compare(resolve("HEAD"), resolve("workspace")).notes == [OTHER_TEXT]


def test_scores_are_tested_on_the_same_answers(project):
    found = lines(scores=[100 if n < 10 else 50 + n for n in range(N)])["judge"]
    assert found.verdict.text == "worse, p = 0.002"  # ten of ten differences are down: 2 / 2**10
    assert "0 up, 10 down" in found.verdict.how


def test_answers_without_a_score_in_one_run_are_left_out(project):
    found = lines(scores=[None, *[90] * (N - 1)])["judge"]
    assert f"the same {N - 1} answers" in found.verdict.how
    assert "1 answer has a score in one run only" in found.verdict.how


def test_the_difference_is_that_of_the_answers_that_both_runs_scored(project):
    write_run(wrong=(0, 1, 2), scores=[0, 20, *[100] * (N - 2)])
    git("commit", "-q", "-a", "-m", "two")
    found = lines(scores=[None, None, *[100] * (N - 2)])["judge"]
    assert found.first.value < found.second.value
    assert (found.difference, found.interval, found.verdict.text) == (0, None, "the same")
    assert "2 answers have a score in one run only" in found.verdict.how
    assert found.says_more  # though the difference is 0, as the two means differ
    found = lines(scores=[None, *[90] * (N - 1)])["judge"]
    assert found.difference == pytest.approx((70 - 10 * (N - 2)) / (N - 1))
    assert found.interval[0] < found.difference < found.interval[1]


def test_answers_that_neither_run_scored_are_no_difference(project):
    write_run(wrong=(0, 1, 2), scores=[None, *[80] * (N - 1)])
    git("commit", "-q", "-a", "-m", "two")
    found = lines(scores=[None, *[90] * (N - 1)])["judge"]
    assert found.difference == 10
    assert "one run only" not in found.verdict.how


def test_exact_answers_are_tested_too(project):
    found = lines(answer=lambda n: "no" if n < 6 else f"answer {n}")["exact"]
    assert found.verdict.text == "worse, p = 0.031"  # 2 / 2**6
    assert found.first.value == 1
    assert found.second.value == (N - 6) / N


def test_a_run_without_a_stage(project):
    (project / "reports/pretrain/metrics.json").unlink()
    found = compare(resolve("HEAD"), resolve("workspace"))[0]
    assert (found.verdict.text, found.verdict.how) == ("not comparable", "only one run has it")
