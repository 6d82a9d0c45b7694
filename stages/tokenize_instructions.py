"""Read and split the instructions: data/raw/instructions -> data/instructions, reports/tokenize/instructions.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm.common import files
from llm.common.errors import DATA, UserError
from llm.data import leakage
from llm.data.instruction_lengths import fit, frame_cost
from llm.data.instruction_shapes import Published, read_published, summary
from llm.data.instructions import InstructionsConfig, refuse_empty, split_entries
from llm.data.prompts import TEXTS, PromptName, Template, all_questions, make_frame, question, turns
from llm.data.tokenizer import Tokenizer
from stages.run import from_section, only_file, point_to_source, run_stage, stage

TOKENIZER = Path("data/tokenizer")
ALSO = {"prompt": "finetune_instruct.prompt", "context_length": "model.context_length"}


@dataclass(frozen=True)
class Params:
    """The keys of params.yaml that this stage reads."""

    instructions: InstructionsConfig
    prompt: PromptName | Template
    context_length: int


def main(params: Params) -> None:
    """Write a JSON file of entries in normal form for each split, and count what it holds."""
    config = params.instructions
    settings = {"tokenize.instructions": config, "finetune_instruct.prompt": params.prompt}
    with stage("tokenize@instructions", settings) as run, point_to_source():
        folder = run.out("data/instructions")
        tokenizer, path = Tokenizer.load(TOKENIZER), only_file("instructions")
        limit, chat = config.max_tokens or params.context_length, params.prompt == "chat"
        frame = replace(TEXTS, end=tokenizer.end) if chat else make_frame(params.prompt, tokenizer)
        if chat:
            run.say("lengths are those of the texts alone: the chat template belongs to the model of finetune_instruct")
        found = read_published(path, config.format, config.shape, config.as_text)
        for line in noticed(found):
            run.say(line)
        if config.empty == "refuse":
            refuse_empty(found.empty, str(path))
        fitted = fit(found.entries, frame, tokenizer, limit, config.too_long, str(path))
        if fitted.too_long:
            run.say(f"{len(fitted.too_long):,} entries have more than {limit} tokens: {config.too_long}")
        entries = fitted.entries
        if not entries:
            what = f"no entry is left of {found.rows:,}: {len(found.empty):,} have no question or no answer"
            what += f", {len(fitted.too_long):,} are too long"
            raise UserError(str(path), what, "correct the entries, or params.yaml: tokenize.instructions", DATA)
        chats = [entry for entry in entries if "messages" in entry]
        counts: dict[str, Any] = {
            "format": found.form,
            "shape": found.shape,
            "entries": len(entries),
            "chats": len(chats),
            "empty_input": sum(not entry["input"] for entry in entries if "messages" not in entry),
            "empty": len(found.empty),
            "too_long": len(fitted.too_long),
            "skipped": found.rows - len(entries),
            "truncated": len(fitted.truncated),
            "unanswered_turns": found.unanswered,
            "extra_keys": summary(found.extra_keys),
            "made_text": summary(found.made_text),
            "max_tokens": limit,
        }
        questions: dict[str, list[str]] = {}
        fractions = config.train_fraction, config.test_fraction
        lengths = split_entries(fitted.lengths, *fractions)
        for split, part in split_entries(entries, *fractions).items():
            files.write_json(folder / f"{split}.json", part)
            asked = [all_questions(entry) if split == "train" else [question(entry)] for entry in part]
            questions[split] = [text for texts in asked for text in texts]
            counts[split] = len(part)
            counts[f"{split}_answers"] = sum(role == "assistant" for entry in part for role, *_ in turns(entry))
            counts[f"{split}_longest_tokens"] = max(lengths[split])
        counts |= {} if chat else frame_cost(entries, fitted.lengths, tokenizer)
        run.write_metrics(counts | leakage.counts(questions), path="reports/tokenize/instructions.json")


def noticed(found: Published) -> Iterator[str]:
    """Lines about the format and shape of the file, and about everything that is ignored or changed."""
    yield f"{found.rows:,} entries, read as {found.form} in the shape {found.shape}"
    for counts, what in ((found.extra_keys, "keys ignored"), (found.made_text, "numbers and lists made text")):
        if counts:
            yield f"{what}: " + ", ".join(f"{key} ({count:,})" for key, count in summary(counts).items())
    if found.unanswered:
        yield f"{found.unanswered:,} turns after the last answer of their chat are left out"


if __name__ == "__main__":
    run_stage(main, Params, from_section("tokenize", ALSO))
