"""Check params.yaml, and list the code that each stage runs: -> .check/<stage>, before any stage can touch an output.

DVC deletes a stage's outputs before it runs the command, so bad parameters must be found here. The lists depend on the
code alone: an edit of parameters runs this stage and then only the stages that use them, and an edit of a comment runs
this stage only.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from llm.common import code, files, params
from llm.common.errors import USAGE, UserError, raise_all
from stages.run import WORK, run_stage, stage
from stages.schema import AllParams

# In the order of the pipeline.
STAGES = (
    "download",
    "tokenizer",
    "tokenize_corpus",
    "tokenize_spam",
    "tokenize_instructions",
    "pretrain",
    "import_gpt2",
    "finetune_spam",
    "finetune_instruct",
    "respond",
    "evaluate_with_judge",
)
SEEN = WORK / "check" / "code.json"  # the lists of the last run; DVC has deleted those in .check
CodeLists = dict[str, dict[str, str]]


def missing_sources(everything: AllParams) -> Iterator[UserError]:
    """The folders and files named in params.yaml that are neither on disk nor made by a stage."""
    made = {"data/tokenizer", "models/pretrain", *(f"models/{item}" for item in everything.import_gpt2)}
    made |= {f"data/raw/{item}" for item in everything.download}
    named = {f"download.{item}.source": source.source for item, source in everything.download.items()}
    named["tokenizer.source"] = everything.tokenizer.source
    for item, checkpoint in everything.import_gpt2.items():
        named[f"import_gpt2.{item}.source"] = checkpoint.source
        named[f"import_gpt2.{item}.tokenizer"] = checkpoint.tokenizer
    named["finetune_spam.init_from"] = everything.finetune_spam.init_from
    named["finetune_instruct.init_from"] = everything.finetune_instruct.init_from
    for key, path in named.items():
        if path in made or (key, path) == ("finetune_spam.init_from", "models/instruct"):  # DVC orders these stages
            continue
        if not Path(path).exists():
            near = difflib.get_close_matches(path, sorted(made), 1)
            fix = f"did you mean {near[0]}?" if near else "correct the path"
            yield UserError(f"params.yaml: {key}", f"{path!r} is not on disk, and no stage makes it", fix, USAGE)
        elif key.endswith(".init_from") and not Path(path, "config.json").is_file():
            yield UserError(f"params.yaml: {key}", f"{path!r} holds no config.json", "name a model folder", USAGE)
    for item in ("spam", "instructions"):
        source = everything.download.get(item)
        if source and not source.files and Path(source.source).is_dir():
            where = f"params.yaml: download.{item}.source"
            yield UserError(where, f"{source.source!r} is a folder", "name one file in it", USAGE)


def main(everything: AllParams) -> None:
    """Check that named files exist, then write the code list of every stage."""
    with stage("check", everything) as run:
        raise_all(list(missing_sources(everything)))
        folder = run.out(".check")
        lists = {name: code.closure(f"stages.{name}") for name in STAGES}
        for name, hashes in lists.items():
            files.write_text(folder / name, code.listing(hashes))
        for line in changes(files.read_json(SEEN) if SEEN.is_file() else lists, lists):
            run.say(line)
        files.write_json(SEEN, lists)


def changes(before: CodeLists, after: CodeLists) -> Iterator[str]:
    """A line for each file that changed, with the stages that will run again for it."""
    stages: dict[str, list[str]] = {}
    for name, hashes in after.items():
        old = before.get(name, {})
        for path in sorted(hashes.keys() | old.keys()):
            if hashes.get(path) != old.get(path):
                stages.setdefault(path, []).append(name)
    for path, names in stages.items():
        yield f"code changed: {path} -> {', '.join(names)}"


if __name__ == "__main__":
    run_stage(main, AllParams, params.read_all)
