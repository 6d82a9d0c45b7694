"""What the measures read: the book's files, finished runs, model folders, GPT-2 before training."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from llm.book import ch04
from llm.book.runs import MADE, Run
from llm.common import params
from llm.common.errors import DATA, UserError
from llm.data.instruction_shapes import Entry
from llm.data.instructions import read_entries
from llm.data.spam import SpamConfig, balanced_splits, read_messages
from llm.data.tokenizer import Tokenizer
from llm.model.gpt import GPT
from llm.weights import model_folder

PINS = "configs/book-offline.yaml"  # names, addresses and hashes of the book's files
FETCH = f"set LLM_MIRROR to a folder with the book's files, or `python -m llm use {PINS} && dvc repro`"
FILES = ("the-verdict.txt", "vocab.json", "merges.txt", "SMSSpamCollection", "instruction-data.json")
LABELS = ["ham", "spam"]  # of the SMS file; the index is the class
SPAM = SpamConfig(
    format="tsv",
    reading="book",
    delimiter=None,
    header=False,
    text_column="2",
    label_column="1",
    encoding="utf-8",
    labels={label: label for label in LABELS},
    balance="undersample",
    order="shuffled",
    train_fraction=0.7,
    validation_fraction=0.1,
)


class Sources:
    """What the measures read: the book's files, finished runs, models, and GPT-2 before training."""

    def __init__(self, root: Path, runs: dict[str, Run]) -> None:
        self.home, self.root, self.runs = root, root, runs  # reports and models are read below self.root

    def missing(self, need: str) -> str | None:
        """Why a row with this need cannot be measured here, and what to do; None if it can."""
        kind, _, name = need.partition(" ")
        if kind == "mirror":
            absent = [name for name in FILES if self._find(name) is None]
            return f"{absent[0]} is not here; {FETCH}" if absent else None
        if kind == "run":
            reason = self.runs[name].missing(self.root, self.home)
            made = reason and self.runs[name].missing(self.home / MADE / name, self.home) is None
            return f"{reason}; `python -m llm verify --run {name}`" if reason and not made else None
        if kind == "model":
            there = (self.root / "models" / name / "model.safetensors").is_file()
            return None if there else f"models/{name} is not here; {_get_model(name)}"
        assert need == "nothing", need
        return None

    def of_run(self, name: str) -> Sources:
        """The same sources with the reports and models of a run, from the project or from the copy that made it."""
        made = self.home / MADE / name
        if self.runs[name].missing(self.root, self.home) is None or self.runs[name].missing(made, self.home):
            return self
        sources = copy.copy(self)
        sources.root = made
        return sources

    def file(self, name: str) -> bytes:
        """The bytes of a file of the book; raises UserError without a file that has the pinned hash."""
        found = self._find(name)
        if found is None:
            raise UserError(name, "is not here, or is not the book's file", FETCH, DATA)
        return found

    @cached_property
    def verdict(self) -> str:
        return self.file("the-verdict.txt").decode("utf-8")

    @contextmanager
    def folder(self, *names: str) -> Iterator[Path]:
        """A folder with these files."""
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                Path(folder, name).write_bytes(self.file(name))
            yield Path(folder)

    @cached_property
    def gpt2(self) -> Tokenizer:
        with self.folder("vocab.json", "merges.txt") as folder:
            return Tokenizer.load(folder)

    @cached_property
    def spam(self) -> dict[str, Any]:
        """The SMS file as the book reads it ("all"), and its three splits."""
        with self.folder("SMSSpamCollection") as folder:
            messages = read_messages(folder / "SMSSpamCollection", SPAM)
        return {"all": messages.frame, **balanced_splits(messages, SPAM, seed=123)}

    @cached_property
    def entries(self) -> list[Entry]:
        """The 1,100 instructions."""
        with self.folder("instruction-data.json") as folder:
            return read_entries(folder / "instruction-data.json")

    @lru_cache(maxsize=1)  # noqa: B019 - one Sources lives for one command
    def untrained(self, context_length: int) -> GPT:
        """GPT-2 124M before training, initialised with seed 123."""
        torch.manual_seed(123)
        return ch04.GPTModel(ch04.GPT_CONFIG_124M | {"context_length": context_length}).eval()

    @lru_cache(maxsize=1)  # noqa: B019
    def model(self, name: str) -> GPT:
        return model_folder.load_model(self.root / "models" / name).eval()

    @cache  # noqa: B019
    def _find(self, name: str) -> bytes | None:
        """A file with the pinned hash, from LLM_MIRROR or data/raw; None without one."""
        downloads = params.load(self.home / PINS)["download"]
        item, pin = next((i, f) for i, section in downloads.items() for f in section["files"] if f["name"] == name)
        candidates: list[Path] = [self.root / "data/raw" / item / name]
        if "LLM_MIRROR" in os.environ:
            candidates.insert(0, Path(os.environ["LLM_MIRROR"]) / pin["url"].rsplit("/", 1)[-1])
        for path in candidates:
            if not path.is_file():
                continue
            data: bytes = path.read_bytes()
            if path.suffix == ".zip":
                with zipfile.ZipFile(io.BytesIO(data)) as archive:
                    data = archive.read(str(pin["member"]))
            if hashlib.sha256(data).hexdigest() == pin["sha256"]:
                return data
        return None


def _get_model(name: str) -> str:
    if not name.startswith("gpt2-"):
        return f"`dvc checkout models/{name}`"
    profiles = {"355M": "gpt2-medium", "774M": "gpt2-large", "1558M": "gpt2-xl"}
    profile = profiles.get(name.removeprefix("gpt2-"), "book")
    return f"`python -m llm use configs/{profile}.yaml && python -m llm pin && dvc repro import_gpt2@{name}`"
