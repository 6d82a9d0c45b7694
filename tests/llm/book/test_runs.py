"""Runs for the ledger are made in a copy of the project, and recognised by dvc.lock."""

import os
from pathlib import Path

import pytest
import yaml

from llm.book import ledger
from llm.book.runs import MADE, Run, make
from llm.common import files, params, profiles
from llm.common.dvc_lock import lookup
from llm.common.errors import UserError
from stages.schema import AllParams
from tests.stages.project import ROOT, Project

SMOKE = Run(
    stage="tokenize@corpus",
    params=("tokenizer.vocab_size=512", "tokenize.corpus.train_fraction=0.75"),
    use=("configs/smoke.yaml",),
    set=("tokenize.corpus.train_fraction=0.75", "tracking.enabled=false"),
)


def test_settings_are_sections():
    run = Run("pretrain", (), (), ("seed=1", "model.init=torch", "finetune_spam.lora={rank: 2, alpha: 4.0}"))
    assert run.settings == {"seed": 1, "model": {"init": "torch"}, "finetune_spam": {"lora": {"rank": 2, "alpha": 4.0}}}
    assert [name for name, _, _ in Run("pretrain", ("a",), (), ("b", "c=1")).problems()] == ["params", "set"]


@pytest.mark.long
def test_a_run_is_made_in_a_copy_and_known_again(tmp_path, monkeypatch):
    project = Project.create(tmp_path / "project")
    monkeypatch.setenv("PATH", os.defpath)  # as if no environment were activated
    before = project.bytes()
    copy = project.folder / MADE / "small"
    assert SMOKE.missing(copy, project.folder) == "dvc.lock has no tokenize@corpus"
    make("small", SMOKE, project.folder)
    assert {name: data for name, data in project.bytes().items() if not name.startswith(".dvc")} == {
        name: data for name, data in before.items() if not name.startswith(".dvc")
    }
    assert SMOKE.missing(copy, project.folder) is None
    assert (copy / "reports/tokenize/corpus.json").is_file()
    assert "dvc.lock has no" in (SMOKE.missing(project.folder, project.folder) or "")

    lock = (copy / "dvc.lock").read_bytes()
    make("small", SMOKE, project.folder)
    assert (copy / "dvc.lock").read_bytes() == lock

    module = project.folder / "llm/data/corpus.py"
    text = module.read_text("utf-8")
    for more, said in [("# a comment\n", None), ("MORE = 1\n", "the last tokenize@corpus ran with other code")]:
        files.write_text(module, text + more)
        assert SMOKE.missing(copy, project.folder) == said
    with pytest.raises(UserError, match=r"`llm use configs/absent\.yaml` ended with 2"):
        make("small", Run("tokenize@corpus", (), ("configs/absent.yaml",)), project.folder)


@pytest.mark.long
def test_every_profile_of_a_run_is_there_and_brings_its_parameters_about(tmp_path, monkeypatch):
    """params.yaml with the profiles and settings of a run has the parameters that the run requires in dvc.lock."""
    monkeypatch.chdir(ROOT)
    for name, run in ledger.read().runs.items():
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(Path("params.yaml").read_bytes())
        for profile in run.use:
            profiles.use(Path(profile), AllParams, path)
        profiles.apply([run.settings], AllParams, path)
        given = params.load(path)
        for word in run.params:
            key, _, wanted = word.partition("=")
            assert lookup(given, key) == yaml.safe_load(wanted), (name, key)
