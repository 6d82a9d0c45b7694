"""Measure our speed against other implementations: `python -m benchmarks [work ...]`.

Writes docs/benchmarks.md, docs/benchmarks.json and docs/benchmarks.png. The others are the book's package
(`pip install --no-deps llms-from-scratch`) and transformers. One that is not installed is left out with a message.
Benchmarks on the book's files find them through `LLM_MIRROR` (docs/data.md). In every round, each implementation runs
once, in its own process, one after the other. Ratios are taken within a round, so that a busy machine slows both sides.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.work import BATCH, CONTEXT, SHAPES, WORK
from llm.common import files

OUT = Path(__file__).parents[1] / "docs"
PEERS = {"book": "the book's package", "transformers": "transformers"}
ONCE = ("chapter-5", "chapter-6", "chapter-6-fp32", "pipeline")  # these take minutes: one round by default
NOT_IN_TABLE = ("machine", "chapter-6-fp32", "pipeline")
HEAD = """\
Written by `python -m benchmarks`. Rates and ratios are medians over the rounds; brackets hold the range of a ratio.

- Rates are tokens per second; in chapter 6, training messages per second.
- chapter-5 is timed up to the saved model, ours including the start of the program.
- chapter-6 (random weights, last block, 5 epochs) is timed from the tokenized messages to the accuracies of all splits.
- Of the book's epochs, two are timed in chapter 5 and one in chapter 6. The time of all epochs is computed from them.
- Ours uses the settings of `llm use auto`; train-* also uses `pretrain.compile: true`.
- The first two training steps are not counted, and gradients are not clipped.
- decode-* is the decoding of the stage `respond` and of the commands `generate` and `chat`.
- Other programs run on the same machine, and its speed varies by a third. Compare ratios, not rates of different rows.
- A benchmark that is not run again keeps its earlier figures.

All benchmarks except `pipeline` and `machine` need transformers or `pip install --no-deps llms-from-scratch` for the
comparison. tokenize and the chapters also need `LLM_MIRROR` ([data.md](data.md)).
""".splitlines()
Result = dict[str, Any]
Rounds = dict[str, list[Result]]  # by implementation


def main() -> None:
    """Run the benchmarks named on the command line, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("work", nargs="*", metavar="work", help=f"benchmarks to run: {', '.join(WORK)} (default: all)")
    parser.add_argument("--rounds", type=int, help=f"number of rounds (default: 5; 1 for {', '.join(ONCE)})")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.work) - set(WORK))
    if unknown:
        parser.error(f"unknown benchmarks: {', '.join(unknown)}")
    kept = OUT / "benchmarks.json"
    known: dict[str, Rounds] = files.read_json(kept) if kept.is_file() else {}
    failed = []
    for work in arguments.work or WORK:
        if found := measure(work, arguments.rounds or (1 if work in ONCE else 5)):
            known[work] = found
            files.write_json(kept, known)
        else:
            failed.append(work)
    results = {work: known[work] for work in WORK if work in known}
    files.write_text(OUT / "benchmarks.md", "\n".join(page(results)) + "\n")
    draw(results, OUT / "benchmarks.png")
    print((OUT / "benchmarks.md").read_text(encoding="utf-8"))
    if failed:
        fix = "see the errors above; the earlier figures are kept"
        parser.exit(1, f"error: {', '.join(failed)}: our implementation failed | fix: {fix}\n")


def measure(work: str, rounds: int) -> Rounds:
    """Run each implementation once per round. One that fails is left out; without the first, the result is empty."""
    found: Rounds = defaultdict(list)
    first, *_ = names = list(WORK[work])
    for number in range(rounds):
        for name in list(names):
            done = run(work, name)
            if done.returncode:
                print(f"{work}: {name} left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                if name == first:
                    return {}
                names.remove(name)
                found.pop(name, None)  # a ratio needs both results of every round
                continue
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{work} {number + 1}/{rounds} {name}: {found[name][-1]['rate']:.1f}", file=sys.stderr)
    return dict(found)


def run(work: str, name: str) -> subprocess.CompletedProcess[str]:
    """Run a benchmark once, in its own process."""
    command = [sys.executable, "-m", "benchmarks.work", work, name]
    environment = {"GOMP_SPINCOUNT": "3000"} | os.environ
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def ratios(rounds: Rounds, peer: str) -> list[float]:
    """Our rate divided by the rate of `peer`, for each round."""
    pairs = zip(rounds["ours"], rounds[peer], strict=True)
    return [ours["rate"] / theirs["rate"] for ours, theirs in pairs]


def page(results: Mapping[str, Rounds]) -> list[str]:
    """The lines of the Markdown page."""
    names = [name for name in ("torch", "transformers", "llms-from-scratch") if installed(name)]
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    lines = ["# Benchmarks against the book's code and transformers", "", *HEAD, ""]
    lines += [f"Measured on {describe()}, {platform.system()}, with native kernels;", f"{packages}.", ""]
    if machine := results.get("machine"):
        limits = ((name.partition(", "), median(found)) for name, found in machine.items())
        shown = "; ".join(f"{what} {rate:.0f} {unit}" for (what, _, unit), rate in limits)
        lines += [f"Limits of the machine: {shown}.", ""]
    lines += [
        "| benchmark | rounds | per second: ours | book | transformers | ours / book | ours / transformers | peak MiB |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for work, found in results.items():
        if work not in NOT_IN_TABLE:
            lines.append(row(work, found))
    for about in (utilisation, compiling, chapter_5, chapter_6, sample):
        if text := list(about(results)):
            lines += ["", *text]
    return lines


def row(work: str, found: Rounds) -> str:
    """One row of the table. Memory peaks are in the order ours, book, transformers."""
    rates = [f"{median(found[name]):.1f}" if name in found else "-" for name in ("ours", *PEERS)]
    columns = []
    for name in PEERS:
        values = ratios(found, name) if name in found else []
        columns.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-")
    peaks = (f"{max(r['peak_mib'] for r in found[name]):.0f}" for name in ("ours", *PEERS) if name in found)
    return f"| {work} | {len(found['ours'])} | {' | '.join(rates)} | {' | '.join(columns)} | {' / '.join(peaks)} |"


def utilisation(results: Mapping[str, Rounds]) -> Iterator[str]:
    """Training as a share of the machine's rate of matrix products."""
    for work in (work for work in results if work.startswith("train-") and "machine" in results):
        limit = median(results["machine"]["bf16 matrix product, GFLOP/s"])
        size = work.removeprefix("train-")
        flops = SHAPES[size].flops_per_token(CONTEXT) * median(results[work]["ours"]) / 1e9
        what = f"{work} (batch {BATCH[size]} x {CONTEXT}): ours computes {flops:.0f} GFLOP/s"
        yield f"{what}, {flops / limit:.2f} of the bf16 rate."


def compiling(results: Mapping[str, Rounds]) -> Iterator[str]:
    """The time that `pretrain.compile` takes, and the number of steps after which it is worth it."""
    for work in (work for work in results if "uncompiled" in results[work]):
        size, rounds = work.removeprefix("train-"), results[work]
        with_it, without = median(rounds["ours"]), median(rounds["uncompiled"])
        cost = statistics.median(r["first_step"] for r in rounds["ours"])
        text = f"{work} without `pretrain.compile`: {without:.1f} tokens per second. Compiling takes {cost:.0f} s"
        saved = BATCH[size] * CONTEXT * (1 / without - 1 / with_it)  # seconds per step
        yield f"{text} and saves time after {cost / saved:.0f} steps." if saved > 0 else f"{text} and saves no time."


def chapter_5(results: Mapping[str, Rounds]) -> Iterator[str]:
    """Time and validation loss of our run of chapter 5."""
    for found in results.get("chapter-5", {}).get("ours", [])[:1]:
        yield f"chapter-5: {found['seconds']:.0f} s, lowest validation loss {found['best_val_loss']:.3f}."


def chapter_6(results: Mapping[str, Rounds]) -> Iterator[str]:
    """Rate and predictions without `frozen_prefix`."""
    for work in ("chapter-6", "chapter-6-fp32"):
        found = results.get(work, {})
        for with_it, without in zip(found.get("ours", []), found.get("whole", []), strict=False):
            pairs = list(zip(with_it["predictions"], without["predictions"], strict=True))
            differ = sum(a != b for a, b in pairs)
            rate = f" {without['rate']:.1f} messages per second;" if work == "chapter-6" else ""
            yield f"{work} without `frozen_prefix`:{rate} {differ} of {len(pairs)} test predictions differ."


def sample(results: Mapping[str, Rounds]) -> Iterator[str]:
    """Time of the sample's `dvc repro`, and of one with nothing to do."""
    for found in results.get("pipeline", {}).get("ours", [])[:1]:
        share = 1 - found["compute"] / found["seconds"]
        yield f"`dvc repro` of the sample with `use auto`: {found['seconds']:.0f} s, {share:.0%} of it not computing."
        empty = f"{found['no_op_ratio']:.2f} times that of a pipeline of empty stages with as many dependencies"
        yield f"`dvc repro` with nothing to do: {found['no_op']:.2f} s, {empty}."


def draw(results: Mapping[str, Rounds], path: Path) -> None:
    """Draw the median ratios as bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [(work, name) for work in results for name in PEERS if name in results[work]]
    values = [statistics.median(ratios(results[work], name)) for work, name in shown]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(shown) + 1.2))
    colours = ["tab:blue" if name == "book" else "tab:orange" for _, name in shown]
    bars = axes.barh([f"{work}, against {PEERS[name]}" for work, name in shown], values, color=colours)
    axes.bar_label(bars, fmt="%.1f x", padding=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast (median over the rounds)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def median(found: Sequence[Result]) -> float:
    """The median rate."""
    return statistics.median(result["rate"] for result in found)


def installed(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package.replace("-", "_")) is not None


if __name__ == "__main__":
    main()
