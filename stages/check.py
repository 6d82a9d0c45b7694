"""Check params.yaml, and list the code that each stage runs: -> .check/<stage>, before any stage can touch an output.

DVC deletes a stage's outputs before it runs the command, so bad parameters must be found here. The lists depend on the
code alone: an edit of parameters runs this stage and then only the stages that use them, and an edit of a comment runs
this stage only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from operator import attrgetter
from pathlib import Path

from llm.common import code, files, params
from llm.common.errors import USAGE, UserError, nearest, raise_all
from llm.data import chat_template
from llm.data.other_tokenizers import GGUF_FIX, gguf
from llm.tracking.champion import stage_of
from llm.tracking.entities import metric_name
from llm.tracking.state import State, numbers
from stages.run import WORK, run_stage, stage
from stages.schema import AllParams

# In the order of the pipeline.
STAGES = tuple(
    "download tokenizer tokenize_corpus tokenize_spam tokenize_instructions pretrain import_gpt2 finetune_spam "
    "finetune_instruct respond evaluate_with_judge preferences preference_base finetune_dpo reason_problems reason_sft "
    "reason_control reason_rl reason_distill reason_evaluate reason_compare".split()
)
LATER_MODELS = ("models/instruct", "models/preference_base", "models/dpo")  # of fine-tunings
CLASSIFIER = "models/spam"
REASON_MODELS = ("models/reason_base", "models/reason_control", "models/reason_rl")
MODEL = ("config.json",)
READ = (  # keys with a folder or a file that a stage reads
    *("finetune_spam.init_from", "finetune_instruct.init_from", "preferences.source", "finetune_dpo.init_from"),
    *("reason_sft.init_from", "reason_rl.init_from", "reason_student.teacher"),
)
START = {"reason_sft.init_from": (*MODEL, "tokenizer.json", "vocab.json")}  # a tokenizer, for a new model
SEEN = WORK / "check" / "code.json"  # the lists of the last run; DVC has deleted those in .check
CodeLists = dict[str, dict[str, str]]


def made_models(everything: AllParams) -> set[str]:
    """The model folders that stages make, without LATER_MODELS."""
    imported = {f"models/{item}" for item in everything.import_gpt2}
    return {"models/pretrain", *imported, *REASON_MODELS, *(f"models/reason_{x}" for x in everything.reason_distill)}


def links_outside() -> Iterator[UserError]:
    """The folders of outputs that are links out of the project: DVC refuses what a stage has written there."""
    for folder in map(Path, ("data", "models", "reports")):
        if folder.is_symlink() and Path.cwd().resolve() not in folder.resolve().parents:
            what = f"is a link to {str(folder.readlink())!r}, outside of the project"
            yield UserError(str(folder), what, "make it a folder, and mount the other disk there", USAGE)


def missing_sources(everything: AllParams) -> Iterator[UserError]:
    """The folders and files named in params.yaml that are neither on disk nor made by a stage."""
    made = {"data/tokenizer", "data/reasoning/tokenizer", *made_models(everything)}
    made |= {f"data/raw/{item}" for item in everything.download}
    named = {f"download.{item}.source": source.source for item, source in everything.download.items()}
    named["tokenizer.source"] = everything.tokenizer.source
    for item, checkpoint in everything.import_gpt2.items():
        named[f"import_gpt2.{item}.source"] = checkpoint.source
        named[f"import_gpt2.{item}.tokenizer"] = checkpoint.tokenizer
    named |= {key: attrgetter(key)(everything) for key in READ}
    named |= {f"reason_models.{name}": folder for name, folder in everything.reason_models.items()}
    for key, path in named.items():
        usable = made | set(LATER_MODELS) - {f"models/{key.partition('.')[0].removeprefix('finetune_')}"}
        if key == "preferences.source":
            usable.add("data/instructions")
        if path in usable:  # DVC orders the stages
            continue
        if path == CLASSIFIER and not key.startswith("download."):
            what = f"{path!r} is the classifier of finetune_spam, not a language model"
            yield UserError(f"params.yaml: {key}", what, "name another model, such as models/instruct", USAGE)
        elif not Path(path).exists():
            declare = "declare its files below download, and name data/raw/ITEM"
            fix = declare if "://" in path else nearest(path, sorted(usable), "correct the path")
            yield UserError(f"params.yaml: {key}", f"{path!r} is not on disk, and no stage makes it", fix, USAGE)
        elif key.endswith(".init_from") and not any(Path(path, name).is_file() for name in START.get(key, MODEL)):
            fix = GGUF_FIX if gguf(Path(path)) else "name a model folder"
            yield UserError(f"params.yaml: {key}", f"{path!r} holds no config.json", fix, USAGE)
    start = everything.finetune_instruct.init_from
    chat = everything.finetune_instruct.prompt == "chat" and start not in made and Path(start).is_dir()
    if chat and chat_template.load(Path(start), ()) is None:
        what = f"chat, but {start!r} has no chat template"
        fix = "use alpaca, phi3, none or a template, or a model with a chat template"
        yield UserError("params.yaml: finetune_instruct.prompt", what, fix, USAGE)
    for item in ("spam", "instructions"):
        source = everything.download.get(item)
        if source and not source.files and Path(source.source).is_dir():
            where = f"params.yaml: download.{item}.source"
            yield UserError(where, f"{source.source!r} is a folder", "name one file in it", USAGE)


def wrong_gates(everything: AllParams) -> Iterator[UserError]:
    """The gates of champions for a model that no stage makes, or a metric that tells nothing of it.

    The names of metrics depend on the data. They are compared with those of the last run, where there was one.
    """
    made = {Path(path).name for path in (*made_models(everything), *LATER_MODELS, CLASSIFIER)}
    state = State.read(Path.cwd()) if Path("dvc.lock").is_file() else None
    for name, gate in everything.tracking.champion.items():
        where = f"params.yaml: tracking.champion.{name}"
        if name not in made:
            yield UserError(where, "no stage makes this model", one_of(name, made), USAGE)
        elif gate.metric.partition(".")[0] not in STAGES:
            what = f"{gate.metric!r} is of no stage"
            yield UserError(f"{where}.metric", what, one_of(gate.metric.partition(".")[0], STAGES), USAGE)
        elif (known := known_metrics(state, name, gate.metric) if state else []) and gate.metric not in known:
            what = f"{gate.metric!r} is no metric of models/{name}"
            yield UserError(f"{where}.metric", what, one_of(gate.metric, known), USAGE)


def one_of(name: str, known: Collection[str]) -> str:
    """The fix for a name that is not among those that are known."""
    return nearest(name, sorted(known), f"name one of {', '.join(sorted(known)[:8])}")


def known_metrics(state: State, model: str, metric: str) -> list[str]:
    """The metrics of a model in the reports of the last run.

    None, if that of the metric's own stage is not there: DVC removes it before a run, which may then fail.
    """
    for maker, measuring in state.measures().items():
        if f"models/{model}" in state.models(maker):
            known = {stage: metric_names(state, stage) for stage in measuring}
            own = stage_of(metric, measuring)
            return [name for names in known.values() for name in names] if own is None or known[own] else []
    return []


def metric_names(state: State, stage: str) -> list[str]:
    """The metrics in the reports of a stage, with those that have no value, as the mean of no score."""
    found = [files.read_json(report) for report in state.reports(stage, ".json")]
    figures = [one for report in found if isinstance(report, dict) for one in params.flat(report).items()]
    return [metric_name(f"{stage}.{key}") for key, value in figures if value is None or numbers({key: value})]


def main(everything: AllParams) -> None:
    """Check that named files exist, then write the code list of every stage."""
    with stage("check", everything) as run:
        raise_all([*links_outside(), *missing_sources(everything), *wrong_gates(everything)])
        folder = run.out(".check")
        code.recall()
        lists = dict(zip(STAGES, code.closures(f"stages.{name}" for name in STAGES).values(), strict=True))
        code.remember()
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
