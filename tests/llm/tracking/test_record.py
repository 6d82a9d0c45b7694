"""The record of finished stages, and what is expected of the next."""

from pathlib import Path

import pytest

from llm.tracking import record
from llm.tracking.record import KEPT, Estimate, Past

RUN = Past(1.0, {"seed": 1}, 2.5, 10**9, {"data/spam": 5})


def test_the_newest_run_comes_first_and_only_some_are_kept(tmp_path):
    for number in range(KEPT + 3):
        record.add(tmp_path, "tokenize@spam", Past(number, {}, 1.0, 1, {}))
    found = record.past(tmp_path, "tokenize@spam")
    assert [run.at for run in found] == list(range(KEPT + 2, 2, -1))
    assert record.past(tmp_path, "pretrain") == []


def test_a_damaged_line_is_left_out(tmp_path):
    record.add(tmp_path, "pretrain", RUN)
    path = tmp_path / record.RUNS / "pretrain.jsonl"
    path.write_text('{"at": 1}\n' + path.read_text() + "{\n")
    assert record.past(tmp_path, "pretrain") == [RUN]


def test_what_is_expected_holds_for_the_same_parameters_only(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    wanted = {"pretrain": Estimate(60.0, 10**9), "respond": None}
    record.expect(tmp_path, wanted)
    assert record.expected(tmp_path) == wanted
    (tmp_path / "params.yaml").write_text("seed: 2\n")
    assert record.expected(tmp_path) == {}
    (tmp_path / record.EXPECTED).write_text("[]")
    assert record.expected(tmp_path) == {}


def test_a_stage_says_what_is_left():
    wanted = {"a": Estimate(200.0, None), "b": Estimate(30.0, None), "c": None}
    assert record.left(wanted, "a") == "about 3.3 min, then about 30 s for 1 of 2 more stages"
    assert record.left(wanted, "b") == "about 30 s, then 1 more stage"
    assert record.left({"z": None} | wanted, "z") == "of unknown time, then about 3.8 min for 2 of 3 more stages"
    assert record.left(wanted, "c") == "of unknown time"
    assert record.left(wanted, "d") == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.1, "1 s"), (89, "89 s"), (150, "2.5 min"), (3600, "60 min"), (9000, "2.5 h"), (2e6, "23 days")],
)
def test_durations(seconds, text):
    assert record.duration(seconds) == text


def test_size_of_a_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    (tmp_path / "b").mkdir()
    (tmp_path / "b/c").write_bytes(b"4567")
    assert record.size(tmp_path) == 7
    assert record.size(tmp_path / "a") == 3
    assert record.size(Path("nowhere")) == 0


def test_this_process_holds_memory():
    assert record.peak_memory() > 10**7
