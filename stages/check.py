"""Check all of params.yaml -> .check/ok, before any stage can touch an output.

DVC deletes a stage's outputs before it runs the command, so a bad parameter must be found here. The output never
changes: an edit of the parameters runs this stage and then only what depends on the edit.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

from llm.common import files, params
from llm.common.errors import USAGE, UserError, raise_all
from stages.run import run_stage, stage
from stages.schema import AllParams


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
    """Look whether all that is named is there; reading the parameters has checked the rest."""
    with stage("check", everything) as run:
        raise_all(list(missing_sources(everything)))
        files.write_text(run.out(".check/ok"), "params.yaml is valid\n")


if __name__ == "__main__":
    run_stage(main, AllParams, params.read_all)
