"""The machine that a measurement runs on, in words for the result pages."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from llm.runtime.device import cpu_has_bf16

CPUINFO = Path("/proc/cpuinfo")


def kind() -> str:
    """The class of machine: the instruction sets of the CPU that decide the speed, such as `AVX512 with bf16`."""
    flags = _known().get("flags", "").split()
    widest = next((name for name in ("AVX512", "AVX2") if {"AVX512": "avx512f"}.get(name, "avx2") in flags), None)
    return f"{widest or platform.machine()}{' with bf16' * cpu_has_bf16()}"


def describe() -> str:
    """CPU model, its class, and the number of cores."""
    return f"{_known().get('model name', platform.processor())}, {kind()} ({os.cpu_count()} cores)"


def _known() -> dict[str, str]:
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
