"""Whatever goes wrong in a stage: one line, one exit code, nothing half-written; the fault removed, the same bytes.

Each row of FAULTS is put into a built project whose outputs of the stage are older ones. `violations` is the oracle.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from llm.common import files, profiles
from stages.schema import AllParams
from tests.ports import reserved_port
from tests.stages.project import ROOT, Project

pytestmark = pytest.mark.slow

LINE = re.compile(r"error: (?P<where>[^|]+?): [^|]+ \| fix: [^|]+")
WAVES = [
    ["download corpus", "download spam", "download instructions"],
    ["tokenizer"],
    ["tokenize_corpus", "tokenize_spam", "tokenize_instructions"],
    ["pretrain"],
    ["finetune_instruct", "evaluate_with_judge"],
]
OLDER = b"from an earlier run\n"
PORTS = ExitStack()  # the reserved ones, until the process ends

Done = subprocess.CompletedProcess[str]


def run(project: Project, stage: str, **options: object) -> Done:
    module, *item = stage.split()
    return project.run(f"stages.{module}", *item, ok=False, **options)


@dataclass(frozen=True)
class Fault:
    """What goes wrong in which stage, and what the stage then says."""

    stage: str  # as in dvc.yaml: module and item
    code: int
    says: str  # a part of its last line, as a regular expression
    put: Callable[[Project], None] = lambda _project: None
    run: Callable[[Project, str], Done] = run


def change(**changes: object) -> Callable[[Project], None]:
    """Parameters that cannot work."""
    return lambda project: project.set(**changes)


def write(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Project], None]:
    """A file with other bytes."""

    def put(project: Project) -> None:
        path = project.folder / name
        path.write_bytes(edit(path.read_bytes()))

    return put


def bad_parameter(project: Project) -> None:
    """One that `Project.set` would refuse to write."""
    path = project.folder / "params.yaml"
    path.write_text(path.read_text().replace("source: data/sample/spam.tsv", "source: 5"))


def no_server(project: Project) -> None:
    """A port of this machine where nobody listens."""
    port = PORTS.enter_context(reserved_port())
    project.set(judge={"backend": "ollama", "url": f"http://127.0.0.1:{port}"})


def without_output(data: bytes) -> bytes:
    """The instructions, the eighth without an answer."""
    entries = json.loads(data)
    del entries[7]["output"]
    return json.dumps(entries).encode()


def flip_last_byte(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def locked(project: Project, stage: str) -> Done:
    """This process runs the same stage, so to speak."""
    with files.lock(project.folder / ".work" / stage.replace(" ", "@") / "lock"):
        return run(project, stage)


def small_disk(project: Project, stage: str) -> Done:
    """No file may grow over 100 kB; the model is larger."""
    return run(project, stage, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))


def two_ranks(project: Project, stage: str) -> Done:
    """As torchrun starts the first of two."""
    return run(project, stage, env={"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"})


def stopped_by(number: signal.Signals) -> Callable[[Project, str], Done]:
    """A signal in the middle of the training."""

    def run_until_trained(project: Project, stage: str) -> Done:
        with project.start(f"stages.{stage}") as process:
            begun = ""
            while "step 0: " not in begun and (line := process.stderr.readline()):
                begun += line
            process.send_signal(number)
            out, err = process.communicate()
        return subprocess.CompletedProcess([stage], process.returncode, out, begun + err)

    return run_until_trained


SHARD, WEIGHTS = "data/corpus/train-00000.bin", "models/pretrain/model.safetensors"
LONG = change(finetune_instruct={"epochs": 100})  # the signal comes in the middle
STATE = r"\.work/finetune_instruct/states/[0-9a-f]{64}/step-\d+"
ROOM = r".*: needs [\d,]+ bytes, the disk has [\d,]+ free"
ME = rf"held by pid {os.getpid()}, started \d{{4}}-"

FAULTS = {
    "bad parameter": Fault("download spam", 2, r"params\.yaml: download\.spam\.source: 5", bad_parameter),
    "unknown item": Fault(
        "download spam", 2, "command line: 'spma' is not in download", run=lambda p, _: run(p, "download spma")
    ),
    "item left out": Fault("download spam", 2, "command line: 0 words, not 1", run=lambda p, _: run(p, "download")),
    "two ranks": Fault("finetune_instruct", 2, "WORLD_SIZE: 2 processes", run=two_ranks),
    "missing tab": Fault(
        "tokenize_spam",
        3,
        r"data/raw/spam/spam\.tsv:2: .* \(this is a copy of what download\.spam\.source names\)",
        write("data/raw/spam/spam.tsv", lambda data: data.replace(b"\nham\twe are", b"\nham we are", 1)),
    ),
    "bad entry": Fault(
        "tokenize_instructions",
        3,
        r"entry 8: missing 'output' .*\(this is a copy of what download\.instructions\.source names\)",
        write("data/raw/instructions/instructions.json", without_output),
    ),
    "damaged tokens": Fault("pretrain", 3, rf"{SHARD}: sha256 ", write(SHARD, flip_last_byte)),
    "truncated weights": Fault("finetune_instruct", 3, rf"{WEIGHTS}: ", write(WEIGHTS, lambda data: data[:-1000])),
    "divergence": Fault("finetune_instruct", 5, "`dvc repro` restores", change(finetune_instruct={"lr": 1e30})),
    "judge down": Fault("evaluate_with_judge", 4, r"judge\.url \(http://127\.0\.0\.1:\d+\): ", no_server),
    "running already": Fault("download spam", 7, ME, run=locked),
    "SIGINT": Fault("finetune_instruct", 130, "interrupted: by SIGINT", LONG, stopped_by(signal.SIGINT)),
    "SIGTERM": Fault("finetune_instruct", 143, "terminated: by SIGTERM", LONG, stopped_by(signal.SIGTERM)),
    "too large a model": Fault(
        "pretrain",
        6,
        r"params\.yaml: pretrain\.micro_batch_size: training needs about .* GB of memory",
        change(model={"n_embd": 600_000, "n_head": 6}),
    ),
    "disk full while saving": Fault("finetune_instruct", 6, rf"{STATE}/\w+\.safetensors: {ROOM}", run=small_disk),
    "disk full at the end": Fault(
        "finetune_instruct",
        6,
        rf"models/instruct/model\.safetensors: {ROOM}",
        change(finetune_instruct={"save_every": None}),
        small_disk,
    ),
}


def violations(fault: Fault, done: Done, before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """What of the error contract does not hold."""
    last = (done.stderr.splitlines() or [""])[-1]
    rules = {
        "exit code": done.returncode == fault.code,
        "error line": LINE.fullmatch(last) is not None and re.search(fault.says, last) is not None,
        "no traceback": "Traceback" not in done.stderr,
        "files": after == before,
    }
    return [rule for rule, holds in rules.items() if not holds]


def declared(stage: str) -> list[str]:
    """The outputs and reports that dvc.yaml names for a stage."""
    module, *item = stage.split() if not stage.startswith("tokenize_") else stage.split("_")
    text = json.dumps(yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][module])
    entry = json.loads(re.sub(r"\$\{(key|item)\}", "".join(item), text))
    entry = entry.get("do", entry)
    named = [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in named]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The smoke project on a part of the sample, without MLflow, every stage of WAVES run once without a fault."""
    made = Project.create(tmp_path_factory.mktemp("faults") / "project")
    profiles.use(ROOT / "configs" / "smoke.yaml", AllParams, made.folder / "params.yaml")
    made.set(
        tracking={"enabled": False},
        runtime={"threads": 1, "kernels": "native"},
        finetune_instruct={"init_from": "models/pretrain"},
    )
    corpus, instructions = (made.folder / "data/sample" / name for name in ("corpus.txt", "instructions.json"))
    corpus.write_bytes(corpus.read_bytes()[:150_000])
    entries = files.read_json(instructions)[:200]
    files.write_json(instructions, entries)
    answers = [entry | {"model_response": entry["output"]} for entry in entries[:20]]
    files.write_json(made.folder / "reports/respond/responses.json", answers)
    with ThreadPoolExecutor(2) as pool:
        for wave in WAVES:
            for done in pool.map(lambda stage: run(made, stage), wave):
                assert done.returncode == 0, done.stderr
    return made


def with_older_outputs(built: Project, folder: Path, stage: str) -> Project:
    """A copy in which the stage's outputs are other ones, so that writing them early would show."""
    project = built.copy(folder)
    for name in project.bytes(*declared(stage)):
        (project.folder / name).write_bytes(OLDER)
    return project


def remove_fault(project: Project, good: dict[str, bytes], outputs: Sequence[str]) -> None:
    """Put every changed input back; of the outputs, nothing."""
    now, outs = project.bytes(), project.bytes(*outputs)
    for name, data in good.items():
        if name not in outs and now.get(name) != data:
            (project.folder / name).write_bytes(data)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_costs_nothing_but_the_run(name, built, tmp_path):
    fault = FAULTS[name]
    good = built.bytes()
    project = with_older_outputs(built, tmp_path / "project", fault.stage)
    fault.put(project)
    before = project.bytes()
    assert before != good

    done = fault.run(project, fault.stage)

    assert violations(fault, done, before, project.bytes()) == [], done.stderr
    remove_fault(project, good, declared(fault.stage))
    again = run(project, fault.stage)
    assert again.returncode == 0, again.stderr
    assert project.bytes() == good


def test_the_oracle_objects_where_nothing_failed(built, tmp_path):
    fault = FAULTS["missing tab"]
    project = with_older_outputs(built, tmp_path / "project", fault.stage)
    before = project.bytes()
    done = run(project, fault.stage)
    assert violations(fault, done, before, project.bytes()) == ["exit code", "error line", "files"]


def test_the_oracle_objects_to_a_traceback_and_to_a_stray_file(built, tmp_path):
    fault = FAULTS["unknown item"]
    project = built.copy(tmp_path / "project")
    before = project.bytes()
    done = run(project, "download spma", env={"LLM_TRACEBACK": "1"})
    (project.folder / "models/stray").write_bytes(OLDER)
    assert violations(fault, done, before, project.bytes()) == ["no traceback", "files"]
