"""dvc.lock is read strictly: DVC may have been killed while it wrote it."""

from pathlib import Path

import pytest

from llm.common import dvc_lock
from llm.common.errors import USAGE, UserError

WHOLE = "schema: '2.0'\nstages:\n  a:\n    cmd: x\n    deps:\n    - path: b\n      md5: c\n    outs:\n"


def test_a_lock_that_is_missing_or_has_no_stages_records_nothing(tmp_path):
    assert dvc_lock.read(tmp_path / "dvc.lock") == {}
    assert dvc_lock.parse("schema: '2.0'\n", "dvc.lock") == {}
    assert dvc_lock.parse(WHOLE, "dvc.lock") == {
        "a": {"cmd": "x", "deps": [{"path": "b", "md5": "c"}], "outs": None},
    }


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (WHOLE + "  a: {}\n", "dvc.lock:9"),
        (WHOLE.replace("path: b", "path: [b"), "dvc.lock:"),
        ("[1]", "dvc.lock"),
        ("stages: [1]", "dvc.lock: stages"),
        ("stages: {a: 1}", "dvc.lock: stages.a"),
        ("stages: {a: {outs: {b: c}}}", "dvc.lock: stages.a"),
        ("stages: {a: {outs: [b]}}", "dvc.lock: stages.a"),
        ("stages: {a: {deps: [{md5: b}]}}", "dvc.lock: stages.a"),
        ("stages: {a: {params: [b]}}", "dvc.lock: stages.a"),
        ("stages: {a: {params: {params.yaml: b}}}", "dvc.lock: stages.a"),
    ],
)
def test_what_is_broken_is_named_with_the_command_that_repairs_it(text, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("dvc.lock").write_text(text)
    with pytest.raises(UserError) as raised:
        dvc_lock.read()
    assert raised.value.where.startswith(where)
    assert (raised.value.code, raised.value.fix) == (USAGE, dvc_lock.REPAIR)


def test_parameters_are_found_behind_dotted_sections():
    joined = {"tokenize.corpus": {"train_fraction": 0.9}}
    assert dvc_lock.lookup(joined, "tokenize.corpus.train_fraction") == 0.9
    assert dvc_lock.lookup(joined, "tokenize.spam.order") is None
    assert dvc_lock.lookup({"seed": 1}, "seed.inner", "missing") == "missing"


def test_an_entry_without_a_part_has_none_of_it():
    entry = dvc_lock.parse(WHOLE, "dvc.lock")["a"]
    assert (dvc_lock.hashes(entry, "deps"), dvc_lock.hashes(entry, "outs")) == ({"b": "c"}, {})
    assert dvc_lock.parameters(entry) == {}
