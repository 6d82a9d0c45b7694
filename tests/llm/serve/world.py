"""Tiny models and a server of them, in a process of its own."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from llm.model.classifier import Classifier
from llm.model.gpt import GPT
from llm.weights import classifier_folder, model_folder
from tests import tiny

ROOT = Path(__file__).parents[3]
CONFIG = replace(tiny.MODEL, context_length=512, n_embd=16)
RUNTIME = "runtime: {precision: fp32, device: cpu, threads: 1, keep_pages: false, fused_loss: false, kernels: native}\n"


def model(seed: int = 3) -> GPT:
    """A model whose greedy texts vary."""
    torch.manual_seed(seed)
    made = GPT(CONFIG).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return made


def write(folder: Path, vocabulary: Path) -> None:
    """Write two language models, a classifier and params.yaml."""
    model_folder.save_model(model(), vocabulary, folder / "one", prompt="alpaca")
    model_folder.save_model(model(4), vocabulary, folder / "two", prompt="phi3")
    classifier = Classifier(model(5), 3, "last_token")
    classifier_folder.save_classifier(classifier, ["ham", "<b>spam</b>", "other"], vocabulary, folder / "sorter")
    (folder / "params.yaml").write_text(RUNTIME)


@contextlib.contextmanager
def server(folder: Path, *options: str, stop: signal.Signals = signal.SIGTERM) -> Iterator[str]:
    """The address of a server of these models."""
    words = [sys.executable, "-m", "llm", "serve", "one", "two", "sorter", "--port", "0", *options]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout
        line = process.stdout.readline()
        try:
            assert line, (folder / "log").read_text()
            yield line.split()[0].rstrip("/")
        finally:
            process.send_signal(stop)
            process.wait(120)
            process.stdout.close()
    said = (folder / "log").read_text()
    assert (process.returncode, said.splitlines()[-1]) == (0, "stopped"), said
