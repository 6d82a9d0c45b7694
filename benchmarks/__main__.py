"""Measure our speed against other implementations: `python -m benchmarks [work ...]`.

Writes docs/benchmarks.md, docs/benchmarks.json and docs/benchmarks.png, by class of machine. The others are the book's
package (`pip install --no-deps llms-from-scratch`) and transformers. One that is not installed is left out with a
message. Benchmarks on the book's files find them through `LLM_MIRROR` (docs/data.md). In every round, each
implementation runs once, in its own process, one after the other. Ratios are taken within a round, so that a busy
machine slows both sides.
"""

from __future__ import annotations

import argparse
import ctypes.util
import json
import os
import subprocess
import sys
from collections import defaultdict

from benchmarks import page, results
from benchmarks.page import PEERS
from benchmarks.results import Result
from benchmarks.work import WORK

ONCE = ("chapter-5", "chapter-6", "chapter-6-fp32", "pipeline")  # these take minutes: one round by default


def main() -> None:
    """Run the benchmarks named on the command line, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("work", nargs="*", metavar="work", help=f"benchmarks to run: {', '.join(WORK)} (default: all)")
    parser.add_argument("--rounds", type=int, help=f"number of rounds (default: 5; 1 for {', '.join(ONCE)})")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.work) - set(WORK))
    if unknown:
        parser.error(f"unknown benchmarks: {', '.join(unknown)}")
    failed = []
    for work in arguments.work or WORK:
        if found := measure(work, arguments.rounds or (1 if work in ONCE else 5)):
            results.keep(work, found)
        else:
            failed.append(work)
    print(page.write())
    if failed:
        fix = "see the errors above; the earlier figures are kept"
        parser.exit(1, f"error: {', '.join(failed)}: our implementation failed | fix: {fix}\n")


def measure(work: str, rounds: int) -> dict[str, list[Result]]:
    """Run each implementation once per round. One that fails is left out; without the first, the result is empty."""
    found: dict[str, list[Result]] = defaultdict(list)
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
    """Run a benchmark once, in its own process; another implementation with the fastest allocator there is."""
    command = [sys.executable, "-m", "benchmarks.work", work, name]
    environment = {"GOMP_SPINCOUNT": "3000"} | os.environ
    if name in PEERS and (tcmalloc := ctypes.util.find_library("tcmalloc_minimal")):
        environment["LD_PRELOAD"] = tcmalloc
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    main()
