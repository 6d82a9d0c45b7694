"""dvc.lock belongs to this code: who edits it or params.yaml runs `make repro` and commits dvc.lock with it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from llm.common import files, params

ROOT = Path(__file__).parents[2]
LOCK = YAML(typ="safe").load((ROOT / "dvc.lock").read_text())["stages"]


@pytest.mark.parametrize("stage", LOCK)
def test_the_locked_code_and_sample_are_the_committed_ones(stage):
    for dep in LOCK[stage]["deps"]:
        if dep["path"].endswith(".py") or dep["path"].startswith("data/sample"):
            assert dep["md5"] == files.dvc_md5(ROOT / dep["path"]), f"{dep['path']} changed: run `make repro`"


@pytest.mark.parametrize("stage", LOCK)
def test_the_locked_params_are_the_committed_ones(stage):
    current = params.load(ROOT / "params.yaml")
    for key, value in LOCK[stage].get("params", {}).get("params.yaml", {}).items():
        section = current
        for part in key.split("."):
            section = section[part]
        assert section == value, f"params.yaml: {key} changed: run `make repro`"


@pytest.mark.parametrize("stage", LOCK)
def test_the_locked_reports_are_the_committed_ones(stage):
    for out in LOCK[stage]["outs"]:
        if out["path"].startswith("reports/"):
            assert out["md5"] == files.dvc_md5(ROOT / out["path"]), f"{out['path']} changed: run `make repro`"


def test_git_keeps_every_byte_of_a_users_data(tmp_path):
    """Otherwise its hash changes when git writes the file again, as in `dvc exp run`, and stages run again."""
    shutil.copyfile(ROOT / ".gitattributes", tmp_path / ".gitattributes")
    (tmp_path / "mine.csv").write_bytes(data := b'label,text\r\nham,"two\nlines"\r\n')
    for words in (["init", "-q"], ["add", "mine.csv"], ["checkout-index", "--all", "--prefix=out/"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    assert (tmp_path / "out/mine.csv").read_bytes() == data


def test_dvc_reads_yaml_by_the_parser_in_c():
    """A quarter of a `dvc repro` with nothing to do hangs on it."""
    assert YAML(typ="safe").Parser.__name__ == "CParser"
    assert YAML(typ="safe", pure=True).Parser.__name__ == "Parser"
