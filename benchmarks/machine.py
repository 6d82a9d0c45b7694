"""The machine that a measurement runs on, in words for the result pages."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from llm.runtime.device import cpu_has_bf16

CPUINFO = Path("/proc/cpuinfo")


def describe() -> str:
    """CPU model, the instruction sets that decide the speed, and the number of cores."""
    lines = CPUINFO.read_text(encoding="utf-8").splitlines() if CPUINFO.exists() else []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    sets = ["AVX512"] * ("avx512f" in known.get("flags", "")) + ["bf16"] * cpu_has_bf16()
    features = f" with {' and '.join(sets)}" if sets else ""
    return f"{known.get('model name', platform.processor())}{features} ({os.cpu_count()} cores)"
