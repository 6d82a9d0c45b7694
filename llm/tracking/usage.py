"""What this machine and a stage use, under the names that MLflow's tab "System metrics" shows."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import psutil

AFTER_SECONDS = 60.0  # a stage that takes less has no such curves
EVERY_SECONDS = 10.0
PREFIX = "system/"
MEGABYTE = 10**6


class Usage:
    """Samples the machine, by MLflow's own monitors of CPU, memory and NVIDIA GPUs."""

    def __init__(self) -> None:
        self._monitors: list[Any] = []
        self._next = time.monotonic()

    def sample(self) -> dict[str, float] | None:
        """The means since the last sample, if it is time for one."""
        if time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + EVERY_SECONDS
        if not self._monitors:
            self._monitors = _monitors()
            psutil.cpu_percent()  # the first call knows no time to look back on
            return None
        found: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            found |= {f"{PREFIX}{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return found


def memory_of(pid: int) -> dict[str, float]:
    """The memory that a stage holds with the processes it started, such as ranks; nothing if it has ended.

    The process that asks, which a stage may have started, is left out.
    """
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss if one.pid != os.getpid() else 0
    return {f"{PREFIX}stage_memory_usage_megabytes": total / MEGABYTE} if total else {}


def _monitors() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    found: list[Any] = [CPUMonitor()]
    with suppress(Exception):  # no NVIDIA GPU, or no nvidia-ml-py
        found.append(GPUMonitor())
    return found
