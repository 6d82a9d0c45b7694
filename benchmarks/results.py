"""The measured figures by class of machine: docs/benchmarks.json, from which `benchmarks.page` writes the page."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, kind
from llm.common import files

DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = ("torch", "transformers", "llms-from-scratch", "tiktoken", "xllamacpp")
Result = dict[str, Any]
Rounds = Mapping[str, Sequence[Result]]  # by implementation
Works = Mapping[str, Rounds]  # by benchmark


def read() -> dict[str, dict[str, Any]]:
    """The figures by class of machine: `machine` and `packages` in words, and `rounds` by benchmark."""
    path = DOCS / "benchmarks.json"
    return files.read_json(path) if path.is_file() else {}


def keep(work: str, found: Rounds) -> None:
    """Keep the figures of a benchmark for this class of machine; those of other benchmarks and classes stay."""
    figures = read()
    here = figures.setdefault(kind(), {"rounds": {}})
    here |= {"machine": f"{describe()}, {platform.system()}", "packages": ", ".join(_versions())}
    here["rounds"][work] = found
    files.write_json(DOCS / "benchmarks.json", figures)


def median(found: Sequence[Result], key: str = "rate") -> float:
    """The median over the rounds."""
    return float(statistics.median(result[key] for result in found))


def ratios(rounds: Rounds, peer: str, key: str = "rate") -> list[float]:
    """Our rate divided by the rate of `peer`, for each round; none where it was not measured."""
    pairs = zip(rounds["ours"], rounds.get(peer, []), strict=False)
    return [ours[key] / theirs[key] for ours, theirs in pairs if key in ours and key in theirs]


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-"


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return found
