"""Which stages are up to date, and what they say."""

from __future__ import annotations

from pathlib import Path

import yaml

from llm.tracking.entities import as_params
from llm.tracking.state import State
from tests.cached import cached_folder
from tests.llm.tracking.conftest import change, lock, report


def test_all_is_up_to_date_after_a_run(folder: Path) -> None:
    state = State.read(folder)
    assert state.up_to_date() == ["data@a", "train", "judge"]
    assert state.figures("train") == {"loss": 1.5, "by.ham": 2.0}
    assert state.figures("judge") == {}
    assert as_params(state.parameters)["train.lr"] == "0.5"


def test_a_report_that_another_run_wrote_has_no_figures(folder: Path) -> None:
    (folder / report("train")).write_text('{"loss": 0.5}')
    assert State.read(folder).figures("train") == {}
    (folder / report("train")).unlink()
    assert State.read(folder).figures("train") == {}


def test_a_changed_parameter_concerns_its_stage_and_those_after_it(folder: Path) -> None:
    assert change(folder, judge={"prompt": "guarded"}).up_to_date() == ["data@a", "train"]
    assert change(folder, train={"lr": 0.6, "epochs": 2}).up_to_date() == ["data@a"]
    assert change(folder, seed=2).up_to_date() == []


def test_an_input_that_was_made_anew_is_noticed(folder: Path) -> None:
    stages = lock()["stages"]
    stages["train"]["outs"][0]["md5"] = "other"
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    assert State.read(folder).up_to_date() == ["data@a", "train"]


def test_what_is_measured_of_a_model(folder: Path) -> None:
    state = State.read(folder)
    assert state.measures() == {"train": ["train", "judge"]}
    assert state.conditions("train", "train") == {"data/a": "a"}
    (settings,) = state.conditions("judge", "train").items()
    assert settings[0] == "judge.prompt"
    stages = lock()["stages"]
    stages["judge"]["params"]["params.yaml"] = {"judge.prompt": "guarded", "seed": 2}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    other = State.read(folder).conditions("judge", "train")
    assert other.keys() == {"judge.prompt"}, "the seed is no condition"
    assert other["judge.prompt"] != settings[1]


def test_losses_over_other_tokens_are_not_compared(folder: Path) -> None:
    def conditions(**settings: object) -> dict[str, str]:
        stages = lock()["stages"]
        stages["train"]["params"]["params.yaml"]["train"] |= settings
        (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
        return State.read(folder).conditions("train", "train")

    masked = conditions(prompt="alpaca", mask_prompt=True)
    assert masked.keys() == {"data/a", "train.prompt", "train.mask_prompt"}
    assert conditions(prompt="alpaca", mask_prompt=True, lr=0.1) == masked
    assert conditions(prompt="alpaca", mask_prompt=False) != masked != conditions(prompt="phi3", mask_prompt=True)


def test_a_loss_with_another_tokenizer_is_not_compared(folder: Path) -> None:
    from dvc.repo import Repo

    Repo.init(str(folder), no_scm=True).close()

    def conditions(stage: str, **model: str) -> dict[str, str]:
        entry = {
            "params": {"params.yaml": {stage: {"epochs": 1}, "reason_sft.prompt": "book"}},
            "deps": [{"path": "data/a", "md5": "a"}, {"path": "models/base", "md5": "b"}],
            "outs": [{"path": "models/tuned", "md5": cached_folder(folder, model)}],
        }
        (folder / "dvc.lock").write_text(yaml.safe_dump(lock(**{stage: entry}), sort_keys=False))
        return State.read(folder).conditions(stage, stage)

    for stage in ("finetune_instruct", "reason_sft", "reason_distill@student"):
        one = conditions(stage, **{"tokenizer.json": "one", "weights": "w"})
        assert one.keys() == {"data/a", "reason_sft.prompt", "tokenizer"}
        assert one == conditions(stage, **{"tokenizer.json": "one", "weights": "other"})
        assert one != conditions(stage, **{"tokenizer.json": "two", "weights": "w"})
        pair = conditions(stage, **{"vocab.json": "v", "merges.txt": "m"})
        assert pair["tokenizer"] != conditions(stage, **{"vocab.json": "v", "merges.txt": "n"})["tokenizer"]
    assert conditions("finetune_spam", **{"tokenizer.json": "one"}).keys() == {"data/a", "reason_sft.prompt"}


def test_a_stage_that_uses_two_models_measures_neither(folder: Path) -> None:
    stages = lock()["stages"]
    stages["judge"]["deps"].append({"path": "models/n", "md5": "n"})
    stages["other"] = {"cmd": "x", "outs": [{"path": "models/n", "md5": "n"}]}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    assert State.read(folder).measures() == {"train": ["train"], "other": ["other"]}


def test_data_in_the_tokens_of_an_imported_model_does_not_use_its_weights(folder: Path) -> None:
    def entry(dep: str, out: str) -> dict[str, object]:
        return {"cmd": "x", "deps": [{"path": dep, "md5": "1"}], "outs": [{"path": out, "md5": "1"}]}

    stages = lock()["stages"] | {
        "import": entry("own", "models/own"),
        "tokenizer": entry("models/own", "data/tokenizer"),
    }
    stages["data@a"]["deps"].append({"path": "data/tokenizer", "md5": "1"})
    stages["judge"]["deps"].append({"path": "data/a", "md5": "a"})
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
    assert State.read(folder).measures() == {"train": ["train", "judge"], "import": ["import"]}


def write_parts(folder: Path, text: str = "a") -> None:
    """Two stages that write into a folder, one that reads all of it, and one that reads a file of an output."""

    def entry(used: dict[str, str], deps: dict[str, str], outs: dict[str, str]) -> dict[str, object]:
        pairs = {"deps": deps, "outs": outs}
        listed = {name: [{"path": p, "md5": m} for p, m in found.items()] for name, found in pairs.items()}
        return {"cmd": "x", "params": {"params.yaml": used}, **listed}

    stages = {
        "answer@a": entry({"judge.prompt": "book"}, {"models/m": "m"}, {"data/answers/a": "1"}),
        "answer@b": entry({}, {}, {"data/answers/b": "2"}),
        "sum": entry({}, {"data/answers": "all"}, {}),
        "part": entry({}, {"data/answers/a/one.txt": "one"}, {}),
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock(**stages), sort_keys=False))


def test_a_folder_of_outputs_is_as_up_to_date_as_all_of_its_makers(folder: Path) -> None:
    write_parts(folder)
    made = State.read(folder)
    assert made.up_to_date()[-4:] == ["answer@a", "answer@b", "sum", "part"]
    assert made.before("sum") == {"answer@a", "answer@b"}
    assert made.before("part") == {"answer@a"}
    assert made.measures()["train"] == ["train", "judge", "answer@a", "sum", "part"]
    assert "data/answers" not in made.conditions("sum", "train"), "it is made from the model"
    assert change(folder, judge={"prompt": "guarded"}).up_to_date() == ["data@a", "train", "answer@b"]
