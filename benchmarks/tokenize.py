"""Tokenize a large corpus: speed and memory of the stage beside tiktoken's own batch call.

`python -m benchmarks.tokenize --megabytes 100 500` generates text, and in every round runs the stage
`tokenize@corpus` and tiktoken's `encode_ordinary_batch`, each in its own process, on the same documents with as many
threads. `--workers 1 2` runs the stage with so many workers instead, in turns, and prints how much faster more are.
Uses GPT-2's vocabulary from LLM_MIRROR. Writes docs/benchmarks.md and docs/benchmarks.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import page, results
from benchmarks.chapter6 import write_vocabulary
from llm.book.runs import copy_project, with_python
from llm.common import files, profiles
from llm.data.corpus_stream import splitter
from llm.data.tokenizer import Tokenizer
from stages.schema import AllParams

ROOT = Path(__file__).parents[1]
SOURCE = "data/raw/corpus/corpus.txt"
SYLLABLES = "ba co de fi gu la me no pu ra si ta ve wo xi yo za tion ing er est ment ness ly pre con dis un".split()
WORDS = 20_000  # different ones, the n-th used in proportion to 1 / n
ENDS = [". ", ", ", ", ", "\n", " — é ", " 1984 ", *[" "] * 54]  # after a word
GROUP = 16 << 20  # characters that tiktoken encodes in one call, so that its lists of ids fit into memory


def main() -> None:
    """Run the rounds of every size."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenize", description=__doc__)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[500], help="sizes of the corpus (default: 500)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--workers", type=int, nargs="+", help="compare the stage with so many workers")
    parser.add_argument("--batch", type=Path, help=argparse.SUPPRESS)  # the child process that runs tiktoken
    arguments = parser.parse_args()
    if arguments.batch:
        print(json.dumps(batch(arguments.batch)))
        return
    if arguments.workers:
        for size in arguments.megabytes:
            print("\n".join(scaling(size, arguments.rounds, arguments.workers)))
        return
    found: dict[str, list[dict[str, float]]] = {}
    for size in arguments.megabytes:
        found |= measure(size, arguments.rounds)
    results.keep("corpus", found)
    print(page.write())


def measure(megabytes: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Results of the stage and of tiktoken on a corpus of so many MB."""
    found: dict[str, list[dict[str, float]]] = {f"{name}, {megabytes} MB": [] for name in ("stage", "tiktoken")}
    stage, tiktoken = found.values()
    with tempfile.TemporaryDirectory() as name:
        project = prepare(Path(name) / "project", megabytes)
        source = project / SOURCE
        for _ in range(rounds):
            stage.append(run(project, "stages.tokenize_corpus"))
            tiktoken.append(run(project, "benchmarks.tokenize", "--batch", str(source), code=ROOT))
            for one in (stage[-1], tiktoken[-1]):
                one["rate"] = source.stat().st_size / 1e6 / one["seconds"]
            print(f"{megabytes} MB: {stage[-1]['rate']:.1f} and {tiktoken[-1]['rate']:.1f} MB/s", file=sys.stderr)
    return found


def scaling(megabytes: int, rounds: int, workers: Sequence[int]) -> Iterator[str]:
    """Run the stage with each number of workers in turns. All write the same shards, else AssertionError.

    The ratios are those of the first number to the others, in the same round.
    """
    found: dict[int, list[dict[str, float]]] = {count: [] for count in workers}
    with tempfile.TemporaryDirectory() as name:
        project = prepare(Path(name) / "project", megabytes)
        hashes = set()
        for _ in range(rounds):
            for count, runs in found.items():
                profiles.apply([{"tokenize": {"parallel": {"workers": count}}}], AllParams, project / "params.yaml")
                runs.append(run(project, "stages.tokenize_corpus"))
                hashes.add(files.dvc_md5(project / "data/corpus"))
                print(f"{count} workers: {runs[-1]}", file=sys.stderr)
    assert len(hashes) == 1, hashes
    yield "| corpus | workers | rounds | MB/s | CPUs in use | times as fast | CPU time | peak MiB |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for count, runs in found.items():
        pairs = list(zip(found[workers[0]], runs, strict=True))
        faster, cpu = (results.spread([one[key] / other[key] for one, other in pairs]) for key in ("seconds", "cpu"))
        rate = statistics.median(megabytes / one["seconds"] for one in runs)
        used = statistics.median(one["cpu"] / one["seconds"] for one in runs)
        peak = max(one["peak_mib"] for one in runs)
        yield f"| {megabytes} MB | {count} | {rounds} | {rate:.1f} | {used:.2f} | {faster} | {cpu} | {peak:.0f} |"


def prepare(project: Path, megabytes: int) -> Path:
    """A copy of the project with a corpus of so many MB and GPT-2's vocabulary, ready for `tokenize@corpus`."""
    copy_project(ROOT, project)
    (project / "vocabulary").mkdir()
    write_vocabulary(project / "vocabulary")
    (project / SOURCE).parent.mkdir(parents=True)
    generate(project / SOURCE, megabytes)
    changes = {
        "tracking": {"enabled": False},
        "tokenizer": {"source": "vocabulary", "vocab_size": 50257},
        "tokenize": {"corpus": {"separator": "\n\n", "split_by": "tokens"}},
    }
    profiles.apply([changes], AllParams, project / "params.yaml")
    run(project, "stages.tokenizer")
    return project


# A small process between us and the measured one: a process starts with the peak of memory of the one that forked it.
MEASURE = """
import json, resource, subprocess, sys, time
begun = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
seconds, used = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
measured = {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 2**10}
print(json.dumps(measured | json.loads(done.stdout or "{}")))
sys.exit(done.returncode)
"""


def run(project: Path, *words: str, code: Path | None = None) -> dict[str, float]:
    """Run `python -m WORDS` in `project`; return its seconds (of the clock, of the CPUs), its peak of memory, and the
    JSON that it prints.
    """
    environment = with_python() | ({"PYTHONPATH": str(code)} if code else {})
    command = [sys.executable, "-c", MEASURE, sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=project, env=environment, stdout=subprocess.PIPE, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def batch(path: Path) -> dict[str, float]:
    """Seconds of tiktoken's batch call on the documents of the file. Reading and splitting are not counted."""
    encoding = Tokenizer.load("data/tokenizer")._encoding
    threads, seconds, cpu, rest, split = len(os.sched_getaffinity(0)), 0.0, 0.0, "", splitter("\n\n")
    with path.open(encoding="utf-8") as file:
        while text := file.read(GROUP):
            *documents, rest = split(rest + text)
            begun, used = time.perf_counter(), time.process_time()
            encoding.encode_ordinary_batch(documents, num_threads=threads)
            seconds, cpu = seconds + time.perf_counter() - begun, cpu + time.process_time() - used
    return {"seconds": seconds, "cpu": cpu}


def generate(path: Path, megabytes: int) -> None:
    """Write documents of 50 to 2,000 words made of syllables, separated by blank lines. The same text every time."""
    chance = np.random.default_rng(5)
    words = ["".join(chance.choice(SYLLABLES, chance.integers(1, 5))) for _ in range(WORDS)]
    pieces = np.array([word + end for word in words for end in ENDS], dtype=object).reshape(WORDS, len(ENDS))
    share = 1 / np.arange(1, WORDS + 1)
    share /= share.sum()
    size = 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1_000_000:
            count = int(chance.integers(50, 2001))
            chosen = pieces[chance.choice(WORDS, count, p=share), chance.integers(len(ENDS), size=count)]
            size += file.write("".join(chosen).strip() + "\n\n")


if __name__ == "__main__":
    main()
