"""Balance and split the labelled messages: data/raw/spam -> data/spam, reports/tokenize/spam.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.data import class_splits, leakage, spam
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
        vocabulary = Tokenizer.load(TOKENIZER)
        messages = spam.read_messages(only_file("spam"), config)
        run.say("read as: " + ", ".join(f"{key} {value!r}" for key, value in messages.read_as.items()))
        disputed = spam.contradictions(messages.frame)
        for one in disputed[: spam.NAMED]:
            run.say(f"the same text has {len(one['labels'])} labels {one['labels']}: {one['text'][:60]!r}")
        counts: dict[str, Any] = {"read_as": messages.read_as, "messages": len(messages.frame)}
        counts["labels"] = {label: int((messages.frame["Label"] == label).sum()) for label in messages.labels}
        counts["texts_with_two_labels"] = len(disputed)
        counts["named_texts_with_two_labels"] = disputed[: spam.NAMED]
        texts: dict[str, list[str]] = {}
        class_splits.write_labels(messages.labels, folder)
        for split, part in spam.balanced_splits(messages, config, params.seed).items():
            class_splits.write_split(part, messages.labels, folder / f"{split}.csv")
            texts[split] = part["Text"].tolist()
            counts[split] = len(part)
            counts[f"{split}_labels"] = {label: int((part["Label"] == label).sum()) for label in messages.labels}
            counts[f"{split}_longest_tokens"] = max(map(len, vocabulary.encode_all(texts[split])))
        if (kept := sum(map(len, texts.values()))) < len(messages.frame):
            rarest = min(messages.labels, key=counts["labels"].__getitem__)
            what = f"{kept:,} of {len(messages.frame):,} texts are kept: {rarest!r} has {counts['labels'][rarest]:,}"
            run.say(f"{what} (tokenize.spam.balance: undersample)")
        run.write_metrics(counts | leakage.counts(texts), path="reports/tokenize/spam.json")


if __name__ == "__main__":
    run_stage(main, Params, from_section("tokenize"))
