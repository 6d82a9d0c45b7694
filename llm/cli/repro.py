"""`llm repro`: run the pipeline with DVC."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

from llm.book.runs import with_python
from llm.common import dvc_yaml
from llm.common.errors import Terminated, UserError
from llm.tracking import spool

BEYOND = ("reason_", "preference", "finetune_dpo")  # how the stages of appendix F and of the bonus begin


def chapters(pipeline: Path = dvc_yaml.PIPELINE) -> list[str]:
    """The stages that `llm repro` runs if none is named: the chapters. Appendix F and DPO take minutes more."""
    return [name for name in dvc_yaml.stage_names(pipeline) if not name.startswith(BEYOND)]


def names_and_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The stages that these words of `llm repro` name, or else the chapters, and the options among them for DVC."""
    options = [word for word in words if word.startswith("-")]  # none of DVC's takes a value
    return [word for word in words if word not in options] or chapters(), options


def run_dvc(words: Sequence[str]) -> str:
    """Run `dvc repro` with `words`, wait for its end, and return the key of its run in MLflow.

    Ctrl-C reaches DVC and its stage from the terminal; SIGTERM is passed on to the stage. Raises UserError if the run
    was interrupted or DVC was killed, and SystemExit with DVC's code if DVC failed: DVC has said why.
    """
    interrupts: list[int] = []
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.SIG_IGN:  # which a child would inherit; a handler it does not
        signal.signal(signal.SIGINT, lambda number, _: interrupts.append(number))
    try:
        command = [sys.executable, "-m", "dvc", "repro", *words]
        with subprocess.Popen(command, env=with_python()) as process:
            key = spool.key_of(process.pid)
            try:
                code = process.wait()
            except Terminated:
                _terminate(process)
                raise _stopped("terminated", signal.SIGTERM) from None
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupts:
        raise _stopped("interrupted", signal.SIGINT)
    if code < 0:
        raise _stopped("dvc was killed", signal.Signals(-code))
    if code:
        sys.exit(code)
    return key


def _stopped(how: str, by: signal.Signals) -> UserError:
    return UserError(how, f"by {by.name}; finished stages are kept", "run the same command again", 128 + by)


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """End the running stage, after which DVC ends by itself; end DVC if no stage runs."""
    dvc = psutil.Process(process.pid)
    for each in dvc.children() or [dvc]:
        each.terminate()
    process.wait()
