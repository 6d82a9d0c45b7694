"""Chapter 5 as a benchmark: train the 124M model on The Verdict for 10 epochs, evaluating every 5 updates.

The text and GPT-2's vocabulary come from the folder LLM_MIRROR. A rate is all training tokens over the whole time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.chapter6 import mirror, write_vocabulary
from llm.book.runs import MADE, Run, make
from llm.common import files
from llm.data.tokenizer import Tokenizer

EPOCHS, BATCH, CONTEXT = 10, 2, 256
ROOT = Path(__file__).parents[1]
COPY = "benchmark-chapter5"


def ours() -> dict[str, float]:
    """The stage `pretrain` with the book's settings and `use auto`, timed as a whole process."""
    make(COPY, Run("tokenize@corpus", (), ("configs/book-offline.yaml", "auto")), ROOT)
    folder = ROOT / MADE / COPY
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "stages.pretrain"], cwd=folder, check=True)
    seconds = time.perf_counter() - begun
    metrics = files.read_json(folder / "reports/pretrain/metrics.json")
    return {"rate": metrics["tokens_seen"] / seconds, "seconds": seconds, "best_val_loss": metrics["best_val_loss"]}


class BookTokenizer:
    """Our tokenizer with the interface that the book's functions use (tiktoken's)."""

    def __init__(self, folder: Path) -> None:
        self._ours = Tokenizer.load(folder)

    def encode(self, text: str, **_: Any) -> list[int]:
        return self._ours.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._ours.decode(ids)


def book(build: Callable[[], Any]) -> dict[str, float]:
    """The book's script, from building the model to saving it.

    Two of its ten epochs are run: the first, which also allocates memory, and a second one that is counted nine times.
    Ten epochs run separately have 20 evaluations, but in one run they have 18. So two are subtracted.
    """
    from llms_from_scratch import ch05
    from llms_from_scratch.ch02 import GPTDatasetV1
    from torch.utils.data import DataLoader

    with tempfile.TemporaryDirectory() as name:
        write_vocabulary(Path(name))
        tokenizer = BookTokenizer(Path(name))
    text = (mirror() / "the-verdict.txt").read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    begun = time.perf_counter()
    model = build()
    torch.manual_seed(123)
    train, val = (
        DataLoader(GPTDatasetV1(part, tokenizer, CONTEXT, CONTEXT), BATCH, shuffle=training, drop_last=training)
        for part, training in ((text[:cut], True), (text[cut:], False))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    marks = [begun]
    for _ in range(2):
        ch05.train_model_simple(model, train, val, optimizer, "cpu", 1, 5, 5, "Every effort moves you", tokenizer)
        marks.append(time.perf_counter())
    ch05.evaluate_model(model, train, val, "cpu", 5)
    marks.append(time.perf_counter())
    with tempfile.TemporaryDirectory() as name:
        torch.save(model.state_dict(), Path(name) / "model.pth")
        marks.append(time.perf_counter())
    first, second, evaluation, saving = (end - start for start, end in pairwise(marks))
    seconds = first + (EPOCHS - 1) * second - 2 * evaluation + saving
    return {"rate": EPOCHS * len(train) * BATCH * CONTEXT / seconds, "seconds": seconds}
