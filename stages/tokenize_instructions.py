"""Split the instructions: data/raw/instructions -> data/instructions, reports/tokenize/instructions.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.common import files
from llm.data import instructions, leakage, prompts
from llm.data.instructions import InstructionsConfig
from llm.data.tokenizer import Tokenizer
from stages.run import from_section, only_file, point_to_source, run_stage, stage

TOKENIZER = Path("data/tokenizer")


@dataclass(frozen=True)
class Params:
    """The sections of params.yaml that this stage reads."""

    instructions: InstructionsConfig


def main(params: Params) -> None:
    """Write a JSON file for each split, in the form of the raw file, and count what it holds."""
    config = params.instructions
    with stage("tokenize@instructions", {"tokenize.instructions": config}) as run, point_to_source():
        folder = run.out("data/instructions")
        folder.mkdir()
        vocabulary, path = Tokenizer.load(TOKENIZER), only_file("instructions")
        entries = instructions.read_entries(path, skip_empty=config.empty == "skip")
        counts: dict[str, Any] = {"entries": len(entries), "empty_input": sum(not entry["input"] for entry in entries)}
        if config.empty == "skip":
            counts["skipped"] = len(files.read_json(path)) - len(entries)
        questions: dict[str, list[str]] = {}
        for split, part in instructions.split_entries(entries, config).items():
            files.write_json(folder / f"{split}.json", part)
            texts = [prompts.format_prompt(entry) + prompts.RESPONSE + entry["output"] for entry in part]
            questions[split] = [prompts.question(entry) for entry in part]
            counts[split] = len(part)
            counts[f"{split}_longest_tokens"] = max(map(len, vocabulary.encode_all(texts)))
        run.write_metrics(counts | leakage.counts(questions), path="reports/tokenize/instructions.json")


if __name__ == "__main__":
    run_stage(main, Params, from_section("tokenize"))
