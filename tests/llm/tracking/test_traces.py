"""Generated answers become traces, a bounded number, once; the judge's scores are added to them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from llm.tracking import recorder, spool, traces
from llm.tracking.config import TrackingConfig
from llm.tracking.tracker import Recorder, current, start_tracking

JUDGE = {"backend": "ollama", "model": "llama3", "prompt": "book"}


def answer(index: int) -> traces.Answer:
    begun = time.time_ns()
    return traces.Answer(
        index, "models/instruct", f"q {index}", f"prompt {index}", f"text {index}", "right", 7, 3, begun, begun + 10**9
    )


@pytest.fixture
def answered(client: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, str]:
    """The experiment and the run of a stage that answered four prompts and may show two, in any order."""
    import mlflow

    mlflow.tracing.reset()  # it would go on with the server of an earlier test
    monkeypatch.chdir(tmp_path)
    for name, value in spool.QUIET.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Recorder, "problem", lambda _: None)  # this process is the recorder
    tracker = start_tracking("respond", {"seed": 1}, tmp_path, TrackingConfig(True, False, {}, 2))
    assert current() is tracker
    traces.record(answer(index) for index in (3, 1, 0, 2))
    thread = threading.Thread(target=recorder.record, args=(tmp_path, spool.folder_of(tmp_path)))
    thread.start()
    tracker.close(None)
    thread.join()
    assert current() is None
    experiment = client.get_experiment_by_name(spool.EXPERIMENT).experiment_id
    (run,) = client.search_runs([experiment])
    return experiment, run.info.run_id


def test_a_trace_has_what_a_person_wants_to_see(client: Any, answered: tuple[str, str]) -> None:
    found = traces.of_run(*answered)
    assert found.keys() == {0, 1}
    whole = client.get_trace(found[1].info.trace_id)
    (span,) = whole.data.spans
    assert span.inputs == {"question": "q 1", "prompt": "prompt 1"}
    assert span.outputs == "text 1"
    assert whole.info.token_usage == {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
    assert whole.info.execution_duration == 1000
    (reference,) = whole.info.assessments
    assert (reference.name, reference.value) == ("reference", "right")


def test_scores_are_added_once_for_each_judge(client: Any, answered: tuple[str, str]) -> None:
    rows = [{"index": 0, "score": 80, "flags": []}, {"index": 1, "score": None, "flags": []}]
    assert traces.are_scores(rows)
    assert not traces.are_scores([{"index": 0}])
    for settings in (JUDGE, JUDGE, JUDGE | {"prompt": "guarded"}, {"backend": "reference", "model": "x"}):
        traces.log_scores(*answered, settings, rows)
    found = traces.of_run(*answered)
    scores = [one for one in found[0].info.assessments if one.name == "score"]
    assert sorted(one.source.source_id for one in scores) == [
        "ollama llama3 book",
        "ollama llama3 guarded",
        "reference",
    ]
    assert {one.value for one in scores} == {80}
    assert [one.name for one in found[1].info.assessments] == ["reference"]


def test_an_earlier_recorder_made_some(client: Any, answered: tuple[str, str], tmp_path: Path) -> None:
    experiment, run = answered
    path = spool.folder_of(tmp_path) / "1-1-respond.jsonl"
    header = {"stage": "respond", "params": {}, "time": 1, "dvc": None, "exp": None, "user": "a", "git": None}
    lines = [header, *({"trace": vars(answer(index))} for index in range(4)), {"close": None, "time": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path.with_suffix(".run").write_text(run)
    recorder.record(tmp_path, spool.folder_of(tmp_path))
    assert traces.of_run(*answered).keys() == {0, 1, 2, 3}
    assert len(client.search_traces(locations=[experiment], run_id=run)) == 4


def test_nothing_is_recorded_without_a_tracked_stage(tmp_path: Path) -> None:
    traces.record([answer(0)])
    start_tracking("respond", {}, tmp_path, TrackingConfig(False, False))
    traces.record([answer(0)])
    assert list(tmp_path.iterdir()) == []
