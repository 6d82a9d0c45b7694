"""Balance and split the labelled messages: data/raw/spam -> data/spam, reports/tokenize/spam.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.data import leakage, spam
from llm.data.spam import SpamConfig
from llm.data.tokenizer import Tokenizer
from stages.run import from_section, only_file, point_to_source, run_stage, stage

TOKENIZER = Path("data/tokenizer")


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    seed: int
    spam: SpamConfig


def main(params: Params) -> None:
    """Write a balanced CSV file for each split, and count what it holds."""
    config = params.spam
    with stage("tokenize@spam", {"tokenize.spam": config}) as run, point_to_source():
        folder = run.out("data/spam")
        folder.mkdir()
        vocabulary = Tokenizer.load(TOKENIZER)
        frame = spam.read_messages(only_file("spam"), config.reading)
        counts: dict[str, Any] = {"messages": len(frame)}
        counts |= {label: int((frame["Label"] == label).sum()) for label in spam.LABELS}
        texts: dict[str, list[str]] = {}
        for split, part in spam.balanced_splits(frame, config, params.seed).items():
            spam.write_split(part, folder / f"{split}.csv")
            texts[split] = part["Text"].tolist()
            counts[split] = len(part)
            counts[f"{split}_longest_tokens"] = max(map(len, vocabulary.encode_all(texts[split])))
        run.write_metrics(counts | leakage.counts(texts), path="reports/tokenize/spam.json")


if __name__ == "__main__":
    run_stage(main, Params, from_section("tokenize"))
