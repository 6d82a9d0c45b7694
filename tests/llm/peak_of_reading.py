"""The peak of memory of a stage that only reads a model, in a process of its own: `respond` or `import_gpt2`.

In the working directory, which `make` fills. Bytes before the stage, at the peak, and as the stage estimates them. Only
memory of the process's own counts: the weights are mapped from their file, and those pages can be dropped.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import stages
from llm.common import files, params, profiles
from llm.data import tokenizer
from llm.model.gpt import GPT
from llm.runtime import machine
from llm.weights import model_folder
from stages import import_gpt2, respond
from stages.schema import AllParams
from tests.llm.tiny_run import MODEL

ROOT = Path(__file__).parents[2]
TOKENIZER, INSTRUCT = Path("data/tokenizer"), Path("models/instruct")
ENTRY = {"instruction": "What is the opposite of hot? " * 30, "input": "", "output": "Cold."}


def make(model: dict[str, Any], settings: dict[str, Any], rows: int) -> None:
    """A project with a model and with questions for it."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, name)
    tokenizer.train([(ROOT / "data/sample/corpus.txt").read_text(encoding="utf-8")], model["vocab_size"], TOKENIZER)
    model_folder.save_model(GPT(replace(MODEL, dropout=0.0, **model)), TOKENIZER, INSTRUCT)
    files.write_json(Path("data/instructions/test.json"), [ENTRY] * rows)
    profiles.apply([{"tracking": {"enabled": False}} | settings], AllParams)


def own_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most bytes that the process had within a block, looked at every millisecond."""

    def __enter__(self) -> Peak:
        self.bytes, self._over = own_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.001):
            self.bytes = max(self.bytes, own_bytes())


def measure(stage: str) -> dict[str, int]:
    estimates = []
    machine.check_memory = lambda _where, _what, needed, _device, _fix: estimates.append(needed)
    before = own_bytes()
    with Peak() as peak:
        if stage == "respond":
            respond.main(params.read(respond.Params))
        else:
            import_gpt2.main(params.read(import_gpt2.Params), "gpt2-sample")
    (work,) = estimates
    return {"before": before, "peak": peak.bytes, "work": work}


if __name__ == "__main__":
    assert stages  # its import, before torch starts threads, is the start of every stage
    what, *rest = sys.argv[1:]
    print(json.dumps(make(*map(json.loads, rest)) if what == "make" else measure(what)))
