"""What a long stage uses is recorded while it runs."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llm.tracking import recorder, spool, usage
from llm.tracking.config import TrackingConfig
from llm.tracking.tracker import Recorder, start_tracking

ON = TrackingConfig(enabled=True, required=False)


def test_memory_of_a_process_and_of_none() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as it:
        assert it.stdout is not None
        it.stdout.readline()  # before, it may hold a page only
        (held,) = usage.memory_of(it.pid).values()
        it.communicate(b"a\n")
    assert 1 < held < 1000
    own = "import os; from llm.tracking import usage; print(usage.memory_of(os.getpid()))"
    said = subprocess.run([sys.executable, "-c", own], capture_output=True, text=True, check=True).stdout
    assert said == "{}\n", "the recorder is no part of a stage"
    assert usage.memory_of(2**22 + 1) == {}


def test_samples_have_the_names_that_mlflow_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "EVERY_SECONDS", 0.1)
    machine = usage.Usage()
    assert machine.sample() is None
    time.sleep(0.2)
    monkeypatch.setattr(usage, "EVERY_SECONDS", 60.0)
    found = machine.sample()
    assert found is not None
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= found.keys()
    assert machine.sample() is None, "it is not yet time"


class Clock:
    """A tenth of a second passes with each look of the recorder, however busy the machine is."""

    def __init__(self) -> None:
        self.begun, self.passed = spool.now_ms(), 0

    def monotonic(self) -> float:
        self.passed += 100
        return self.passed / 1000

    def now_ms(self) -> int:
        return self.begun + self.passed


@pytest.mark.parametrize(("after", "wanted"), [(0.5, True), (1e6, False)])
def test_only_a_long_stage_has_them(after: float, wanted: bool, client, monkeypatch, tmp_path: Path) -> None:
    clock, taken, sample = Clock(), [], usage.Usage.sample

    def counted(machine: usage.Usage) -> dict[str, float] | None:
        if found := sample(machine):
            taken.append(found)
        return found

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(usage, "time", clock)
    monkeypatch.setattr(spool, "now_ms", clock.now_ms)
    monkeypatch.setattr(usage.Usage, "sample", counted)
    monkeypatch.setattr(usage, "AFTER_SECONDS", after)
    monkeypatch.setattr(usage, "EVERY_SECONDS", 0.2)
    monkeypatch.setattr(usage, "memory_of", lambda _: {"system/stage_memory_usage_megabytes": 11.0})  # it is this one
    monkeypatch.setattr(Recorder, "problem", lambda _: None)  # this process is the recorder
    tracker = start_tracking("pretrain", {"seed": 1}, tmp_path, ON)
    thread = threading.Thread(target=recorder.record, args=(tmp_path, spool.folder_of(tmp_path)))
    thread.start()
    end = time.monotonic() + 120
    while len(taken) < 6:
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.05)
    tracker.close(None)
    thread.join()
    experiment = client.get_experiment_by_name(spool.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert any(name.startswith("system/") for name in run.data.metrics) == wanted
    if wanted:
        assert run.data.metrics["system/stage_memory_usage_megabytes"] > 10
        points = client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
        assert len({point.step for point in points}) == len(points) > 1
