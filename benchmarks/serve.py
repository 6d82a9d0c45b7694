"""Measure `llm serve` with many clients at once against one at a time: `python -m benchmarks.serve [models]`.

A server is started on models/instruct and models/pretrain, with params.yaml of this project. CLIENTS questions from
data/sample go to both: the first gives short answers, and the second, which was not taught to answer, writes on. With
greedy decoding, first one after the other, then all at once. The texts must agree. Writes docs/benchmarks.md and
docs/benchmarks.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import page, results
from llm.book.runs import with_python

ROOT = Path(__file__).parents[1]
MODELS = ("instruct", "pretrain")
CLIENTS, ROUNDS, TOKENS = 32, 5, 64


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("models", nargs="?", type=Path, default=Path("models"), help="default: models")
    folder = parser.parse_args().models.resolve()
    entries = json.loads((ROOT / "data/sample/instructions.json").read_text("utf-8"))[-CLIENTS:]
    words = [sys.executable, "-m", "llm", "serve", *(str(folder / name) for name in MODELS), "--port", "0"]
    with subprocess.Popen(words, cwd=ROOT, env=with_python(), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            address = urlsplit(server.stdout.readline().split()[0]).netloc
            questions = [f"{entry['instruction']}\n{entry['input']}".strip() for entry in entries]
            found = {name: [measure(address, name, questions) for _ in range(ROUNDS)] for name in MODELS}
        finally:
            server.terminate()
    results.keep("serve", found)
    print(page.write())


def measure(address: str, model: str, questions: Sequence[str]) -> dict[str, float]:
    """Tokens per second of one client at a time and of all at once, after a warm-up. The texts must agree."""

    def ask(question: str) -> tuple[str, int]:
        connection = http.client.HTTPConnection(address, timeout=600)
        body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": TOKENS}
        body["messages"] = [{"role": "user", "content": question}]
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]

    ask(questions[0])
    begun = time.perf_counter()
    alone = [ask(question) for question in questions]
    seconds_alone = time.perf_counter() - begun
    with ThreadPoolExecutor(len(questions)) as pool:
        begun = time.perf_counter()
        together = list(pool.map(ask, questions))
        seconds_together = time.perf_counter() - begun
    assert together == alone, "the texts differ"
    tokens = sum(count for _, count in alone)
    counts = {"tokens": tokens, "clients": len(questions)}
    return counts | {"alone": tokens / seconds_alone, "together": tokens / seconds_together}


if __name__ == "__main__":
    main()
