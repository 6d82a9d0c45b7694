"""Cut one data set into its splits: data/raw/<item> and data/tokenizer -> data/<item>, reports/tokenize/<item>.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.common import files
from llm.common.errors import DATA, UserError
from llm.data import corpus, instructions, leakage, prompts, spam, tokenizer
from llm.data.corpus import CorpusConfig
from llm.data.instructions import InstructionsConfig
from llm.data.spam import SpamConfig
from llm.data.tokenizer import Tokenizer
from stages.run import item_of, of_a_copy, run_stage, stage

RAW, TOKENIZER = Path("data/raw"), Path("data/tokenizer")


@dataclass(frozen=True)
class TokenizeConfig:
    """How each data set becomes what training reads."""

    corpus: CorpusConfig
    spam: SpamConfig
    instructions: InstructionsConfig


@dataclass(frozen=True)
class Params:
    """What this stage reads, over all its items."""

    seed: int
    tokenize: TokenizeConfig


# The sections that each item reads; dvc.yaml declares these for it, and of `tokenize` the item's own part.
SECTIONS = {"corpus": {"tokenize"}, "spam": {"tokenize", "seed"}, "instructions": {"tokenize"}}


def main(params: Params, item: str) -> None:
    """Write the splits of `item` and count what they hold."""
    cut: dict[str, Callable[[Params, Tokenizer, Path], dict[str, Any]]]
    cut = {"corpus": cut_corpus, "spam": cut_spam, "instructions": cut_instructions}
    cut_item = item_of(cut, item, "tokenize")
    with stage(f"tokenize@{item}", getattr(params.tokenize, item)) as run, of_a_copy():
        folder = run.out(f"data/{item}")
        folder.mkdir()
        counts = cut_item(params, Tokenizer.load(TOKENIZER), folder)
        run.write_metrics(counts, path=f"reports/tokenize/{item}.json")


def cut_corpus(params: Params, vocabulary: Tokenizer, folder: Path) -> dict[str, Any]:
    """Token shards of the training and validation documents."""
    config = params.tokenize.corpus
    documents = corpus.read_documents(RAW / "corpus", config.separator)
    counts: dict[str, Any] = {"documents": len(documents), "characters": sum(map(len, documents))}
    splits = zip(("train", "val"), corpus.split_documents(documents, config.train_fraction), strict=True)
    for split, part in splits:
        ids = corpus.encode_documents(part, vocabulary)
        text_bytes = sum(len(document.encode()) for document in part)
        pins = corpus.Pins(vocabulary.vocab_size, tokenizer.fingerprint(TOKENIZER))
        corpus.write_shards(folder, split, ids, text_bytes, pins, config.shard_tokens)
        counts[f"{split}_tokens"] = len(ids)
    if len(documents) > 1:
        counts["tokens"] = counts["train_tokens"] + 1 + counts["val_tokens"]  # <|endoftext|> stands between the two
    else:  # cut in the middle of a document, and perhaps of a token
        counts["tokens"] = len(vocabulary.encode(documents[0]))
    return counts


def cut_spam(params: Params, vocabulary: Tokenizer, folder: Path) -> dict[str, Any]:
    """Balanced CSVs of the three splits."""
    config = params.tokenize.spam
    frame = spam.read_messages(_only_file("spam"), config.reading)
    counts: dict[str, Any] = {"messages": len(frame)}
    texts: dict[str, list[str]] = {}
    counts |= {label: int((frame["Label"] == label).sum()) for label in spam.LABELS}
    for split, part in spam.balanced_splits(frame, config, params.seed).items():
        spam.write_split(part, folder / f"{split}.csv")
        counts[split] = len(part)
        counts[f"{split}_longest_tokens"] = max(map(len, vocabulary.encode_all(part["Text"].tolist())))
        texts[split] = part["Text"].tolist()
    return counts | leakage.counts(texts)


def cut_instructions(params: Params, vocabulary: Tokenizer, folder: Path) -> dict[str, Any]:
    """JSON files of the three splits, in the form of the file itself."""
    config, path = params.tokenize.instructions, _only_file("instructions")
    entries = instructions.read_entries(path, skip_empty=config.empty == "skip")
    counts: dict[str, Any] = {"entries": len(entries), "empty_input": sum(not entry["input"] for entry in entries)}
    if config.empty == "skip":
        counts["skipped"] = len(files.read_json(path)) - len(entries)
    questions: dict[str, list[str]] = {}
    for split, part in instructions.split_entries(entries, config).items():
        files.write_json(folder / f"{split}.json", part)
        counts[split] = len(part)
        texts = [prompts.format_prompt(entry) + prompts.RESPONSE + entry["output"] for entry in part]
        counts[f"{split}_longest_tokens"] = max(map(len, vocabulary.encode_all(texts)))
        questions[split] = [prompts.question(entry) for entry in part]
    return counts | leakage.counts(questions)


def _only_file(item: str) -> Path:
    found = sorted(path for path in (RAW / item).iterdir() if not path.name.startswith("."))
    if len(found) != 1:
        what = f"brought {len(found)} files, not one"
        raise UserError(f"params.yaml: download.{item}.source", what, "name one of them", DATA)
    return found[0]


if __name__ == "__main__":
    run_stage(main, Params)
