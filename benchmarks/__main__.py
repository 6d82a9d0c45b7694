"""Ours beside the peers, pair by pair -> docs/benchmarks.md, docs/benchmarks.png: `python -m benchmarks [work ...]`.

Peers: the book's package (`pip install --no-deps llms-from-scratch`) and transformers; one that is not installed is
left out visibly. Works on the book's files find them through `LLM_MIRROR` (docs/data.md). In every round each contender
does the work once, in a process of its own, one after the other; a ratio is taken within a round, so that a machine
that is busy for a while slows both.
"""

from __future__ import annotations

import argparse
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

from benchmarks.work import BATCH, CONTEXT, SHAPES, WORK
from llm.common import files

OUT = Path(__file__).parents[1] / "docs"
PEERS = {"book": "the book's package", "transformers": "transformers"}
ONCE = ("chapter-5", "chapter-6", "chapter-6-fp32", "pipeline")  # minutes each: one round by default
TOLD_APART = ("machine", "chapter-6-fp32", "pipeline")  # not lines of the table
HEAD = """\
What is counted are tokens; for chapter 6 (random weights, last block, 5 epochs) training messages, over the time from
tokenized messages to the accuracies of all splits; for chapter 5 up to the saved model, ours from the start of the
program. Of the book's epochs one is timed in chapter 6, the first and a second in chapter 5, and scaled. Ours is with
`python -m llm use auto`, in the lines train-* also with `pretrain.compile: true`; steps are timed after the first two,
and nobody clips gradients there. Others use this machine too, and some minutes are slower by a third than others, so
ratios compare, and seconds of two lines do not. Works that are not measured anew keep what they had. decode-* is how
the stage `respond` decodes, and `generate` and `chat`. Measuring the peers takes transformers and
`pip install --no-deps llms-from-scratch`; tokenize and the chapters also need `LLM_MIRROR` ([data.md](data.md)).
""".split("\n")
Result = dict[str, Any]
Rounds = dict[str, list[Result]]  # by contender


def main() -> None:
    """Measure what was asked for, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("work", nargs="*", metavar="work", help=f"some of {', '.join(WORK)} (default: all)")
    parser.add_argument("--rounds", type=int, help=f"pairs (default: 5; of {', '.join(ONCE)}: 1)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.work) - set(WORK))
    if unknown:
        parser.error(f"no such work: {', '.join(unknown)}")
    kept = OUT / "benchmarks.json"
    known: dict[str, Rounds] = files.read_json(kept) if kept.is_file() else {}
    failed = []
    for work in arguments.work or WORK:
        if found := measure(work, arguments.rounds or (1 if work in ONCE else 5)):
            known[work] = found
            files.write_json(kept, known)
        else:
            failed.append(work)
    results = {work: known[work] for work in WORK if work in known}  # other works keep what was measured before
    files.write_text(OUT / "benchmarks.md", "\n".join(page(results)) + "\n")
    draw(results, OUT / "benchmarks.png")
    print((OUT / "benchmarks.md").read_text(encoding="utf-8"))
    if failed:
        fix = "mend what the lines above say; the figures from before are kept"
        parser.exit(1, f"error: {', '.join(failed)}: not measured, ours could not be | fix: {fix}\n")


def measure(work: str, rounds: int) -> Rounds:
    """Every contender once a round, in turn; one that fails is named and left out, and all are if it is the first."""
    found: Rounds = defaultdict(list)
    first, *_ = contenders = list(WORK[work])
    for number in range(rounds):
        for contender in list(contenders):
            command = [sys.executable, "-m", "benchmarks.work", work, contender]
            environment = {"GOMP_SPINCOUNT": "3000"} | os.environ
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{work}: {contender} left out: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                if contender == first:
                    return {}
                contenders.remove(contender)
                found.pop(contender, None)  # rounds are compared one by one
                continue
            found[contender].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{work} {number + 1}/{rounds} {contender}: {found[contender][-1]['rate']:.1f}", file=sys.stderr)
    return dict(found)


def ratios(rounds: Rounds, contender: str) -> list[float]:
    """How many times as fast as `contender` ours was, round by round."""
    pairs = zip(rounds["ours"], rounds[contender], strict=True)
    return [ours["rate"] / theirs["rate"] for ours, theirs in pairs]


def page(results: Mapping[str, Rounds]) -> list[str]:
    """The table, with the machine that it holds for, and what follows from it."""
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "llms-from-scratch") if has(name)
    )
    lines = ["# Beside the peers", ""]
    lines += ["Written by `python -m benchmarks`: medians of the rounds, and of the ratios the range in brackets."]
    lines += HEAD
    lines += [f"{cpu_name()}, {os.cpu_count()} threads; {platform.system()}; {packages}.", ""]
    if machine := results.get("machine"):
        shown = (f"{name.replace(', ', ': ')} {median(found):.0f}" for name, found in machine.items())
        lines += [f"What the machine does at most: {'; '.join(shown)}.", ""]
    lines += [
        "| work | rounds | per second: ours | book | transformers | ours / book | ours / transformers | peak MiB |"
    ]
    lines += ["| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for work, found in results.items():
        if work not in TOLD_APART:
            lines.append(row(work, found))
    for about in (utilisation, compiling, chapter_5, chapter_6, sample):
        if said := list(about(results)):
            lines += ["", *said]
    return lines


def row(work: str, found: Rounds) -> str:
    """One line of the table; the peaks stand in the order ours, book, transformers."""
    rates = [f"{median(found[name]):.1f}" if name in found else "-" for name in ("ours", *PEERS)]
    beside = []
    for name in PEERS:
        values = ratios(found, name) if name in found else []
        beside.append(f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-")
    peaks = (f"{max(r['peak_mib'] for r in found[name]):.0f}" for name in ("ours", *PEERS) if name in found)
    return f"| {work} | {len(found['ours'])} | {' | '.join(rates)} | {' | '.join(beside)} | {' / '.join(peaks)} |"


def utilisation(results: Mapping[str, Rounds]) -> Iterator[str]:
    """The share of the machine's matrix-product rate that training reaches."""
    for work in (work for work in results if work.startswith("train-") and "machine" in results):
        limit = median(results["machine"]["bf16 matrix product, GFLOP/s"])
        size = work.removeprefix("train-")
        flops = SHAPES[size].flops_per_token(CONTEXT) * median(results[work]["ours"]) / 1e9
        what = f"{work} (batch {BATCH[size]} x {CONTEXT}): ours computes {flops:.0f} GFLOP/s"
        yield f"{what}, {flops / limit:.2f} of the bf16 rate."


def compiling(results: Mapping[str, Rounds]) -> Iterator[str]:
    """What `pretrain.compile` costs, and from how many steps on it pays."""
    for work in (work for work in results if "uncompiled" in results[work]):
        size, rounds = work.removeprefix("train-"), results[work]
        with_it, without = median(rounds["ours"]), median(rounds["uncompiled"])
        cost = statistics.median(r["first_step"] for r in rounds["ours"])
        said = f"{work} without `pretrain.compile`: {without:.1f} tokens per second; compiling takes {cost:.0f} s"
        saved = BATCH[size] * CONTEXT * (1 / without - 1 / with_it)  # seconds a step
        yield f"{said}, made up for after {cost / saved:.0f} steps." if saved > 0 else f"{said} for nothing."


def chapter_5(results: Mapping[str, Rounds]) -> Iterator[str]:
    """What the faster run of chapter 5 reaches."""
    for found in results.get("chapter-5", {}).get("ours", [])[:1]:
        yield f"chapter-5: {found['seconds']:.0f} s, lowest validation loss {found['best_val_loss']:.3f}."


def chapter_6(results: Mapping[str, Rounds]) -> Iterator[str]:
    """Whether the frozen prefix changes what is said."""
    for work in ("chapter-6", "chapter-6-fp32"):
        found = results.get(work, {})
        for with_it, without in zip(found.get("ours", []), found.get("whole", []), strict=False):
            pairs = list(zip(with_it["said"], without["said"], strict=True))
            differ = sum(a != b for a, b in pairs)
            rate = f" {without['rate']:.1f} messages per second;" if work == "chapter-6" else ""
            yield f"{work} without the frozen prefix:{rate} {differ} of {len(pairs)} test predictions differ."


def sample(results: Mapping[str, Rounds]) -> Iterator[str]:
    """The sample's `dvc repro`, and one with nothing to do."""
    for found in results.get("pipeline", {}).get("ours", [])[:1]:
        share = 1 - found["compute"] / found["seconds"]
        yield f"The sample's `dvc repro` with `use auto`: {found['seconds']:.0f} s, {share:.0%} of it not computing."
        beside = f"{found['no_op_ratio']:.2f} times one of as many empty stages with as many dependencies"
        yield f"A `dvc repro` with nothing to do: {found['no_op']:.2f} s, {beside}."


def draw(results: Mapping[str, Rounds], path: Path) -> None:
    """Bars of the median ratios."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [(work, name) for work in results for name in PEERS if name in results[work]]
    values = [statistics.median(ratios(results[work], name)) for work, name in shown]
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(shown) + 1.2))
    colours = ["tab:blue" if name == "book" else "tab:orange" for _, name in shown]
    bars = axes.barh([f"{work}, beside {PEERS[name]}" for work, name in shown], values, color=colours)
    axes.bar_label(bars, fmt="%.1f x", padding=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast (median over the rounds)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def median(found: Sequence[Result]) -> float:
    """Of the rates."""
    return statistics.median(result["rate"] for result in found)


def has(package: str) -> bool:
    """Whether it is installed."""
    from importlib.metadata import PackageNotFoundError

    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def cpu_name() -> str:
    """As Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
