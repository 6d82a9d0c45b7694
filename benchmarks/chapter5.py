"""Chapter 5 from the tokens of The Verdict to the trained 124M: 10 epochs, an evaluation every 5 updates, samples.

The text and GPT-2's vocabulary come from the folder LLM_MIRROR. Rates are training tokens per second of the whole.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.chapter6 import mirror, write_vocabulary
from llm import files
from llm.book.runs import MADE, Run, make
from llm.tokenizer import Tokenizer

EPOCHS, BATCH, CONTEXT = 10, 2, 256
ROOT = Path(__file__).parents[1]
COPY = "benchmark-chapter5"


def ours() -> dict[str, float]:
    """The stage pretrain with the book's settings and this machine's fastest, from start to published model."""
    make(COPY, Run("tokenize@corpus", (), ("configs/book-offline.yaml", "auto")), ROOT)
    folder = ROOT / MADE / COPY
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "stages.pretrain"], cwd=folder, check=True)
    seconds = time.perf_counter() - begun
    metrics = files.read_json(folder / "reports/pretrain/metrics.json")
    return {"rate": metrics["tokens_seen"] / seconds, "seconds": seconds, "best_val_loss": metrics["best_val_loss"]}


class BookTokenizer:
    """Our tokenizer as the book's functions call theirs."""

    def __init__(self, folder: Path) -> None:
        self._ours = Tokenizer.load(folder)

    def encode(self, text: str, **_: Any) -> list[int]:
        """Token ids."""
        return self._ours.encode(text)

    def decode(self, ids: list[int]) -> str:
        """Text."""
        return self._ours.decode(ids)


def book(model: Any) -> dict[str, float]:
    """The book's script: one epoch, scaled to ten, in which there are 18 evaluations."""
    from llms_from_scratch import ch05
    from llms_from_scratch.ch02 import GPTDatasetV1
    from torch.utils.data import DataLoader

    with tempfile.TemporaryDirectory() as name:
        write_vocabulary(Path(name))
        tokenizer = BookTokenizer(Path(name))
    text = (mirror() / "the-verdict.txt").read_text(encoding="utf-8")
    cut = int(0.9 * len(text))
    torch.manual_seed(123)
    train, val = (
        DataLoader(GPTDatasetV1(part, tokenizer, CONTEXT, CONTEXT), BATCH, shuffle=training, drop_last=training)
        for part, training in ((text[:cut], True), (text[cut:], False))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, weight_decay=0.1)
    begun = time.perf_counter()
    ch05.train_model_simple(model, train, val, optimizer, "cpu", 1, 5, 5, "Every effort moves you", tokenizer)
    epoch = time.perf_counter() - begun
    begun = time.perf_counter()
    ch05.evaluate_model(model, train, val, "cpu", 5)
    seconds = EPOCHS * epoch - 2 * (time.perf_counter() - begun)
    return {"rate": EPOCHS * len(train) * BATCH * CONTEXT / seconds, "seconds": seconds}
