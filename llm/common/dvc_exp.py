"""DVC's experiments, by its command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.common import git_here
from llm.common.errors import USAGE, UserError

DONE = "success"
COPIES = "/.dvc/tmp/exps/"  # where DVC makes a copy of the project for each queued experiment
TRIES, WAIT_SECONDS = 20, 0.5
RUNS = Path(".dvc/tmp/exps/run")
QUEUED, FAILED = "refs/exps/celery/stash", "refs/exps/celery/failed"
# A commit that an experiment started from: in the name of its ref, in an entry of the queue, in the file of a run.
BASE = re.compile(r'refs/exps/([0-9a-f]{2}/[0-9a-f]{38})/|dvc-exp:[0-9a-f]+:([0-9a-f]{40})|"baseline_rev": "(\w{40})"')
Group = dict[str, Any]  # a commit with its experiments, as `dvc exp show --json` gives it


def by_commit(every_commit: bool = False) -> list[Group]:
    """Git's HEAD, or every commit, with its experiments. Raises UserError if DVC cannot list them.

    While a queued experiment starts or ends, its copy of the project is not whole, and DVC fails. So it is asked again.
    """
    words = ["exp", "show", "--json"]
    for commit in bases() if every_commit else ():  # DVC's --all-commits takes a tenth of a second for each commit
        words += ["--rev", commit]
    for _ in range(TRIES):
        try:
            return _groups(words)
        except UserError as error:
            if COPIES not in error.what:
                raise
            time.sleep(WAIT_SECONDS)
    return _groups(words)


def bases() -> list[str]:
    """HEAD and the commits that experiments started from, newest first; none without a commit."""
    found = {"".join(groups).replace("/", "") for text in _records() for groups in BASE.findall(text)}
    return (git_here.text("rev-list", "--no-walk=sorted", "--ignore-missing", "HEAD", *sorted(found)) or "").split()


def _records() -> Iterator[str]:
    """What tells of experiments that have ended, are queued, failed, and run."""
    yield git_here.text("for-each-ref", "--format=%(refname)", "refs/exps") or ""
    yield from (git_here.text("log", "-g", "--format=%gs", ref, "--") or "" for ref in (QUEUED, FAILED))
    yield from (path.read_text("utf-8", "replace") for path in RUNS.glob("*/*.run"))


def _groups(words: Sequence[str]) -> list[Group]:
    found: list[Group] = json.loads(run(*words))
    return found


def newest(group: Group) -> list[dict[str, Any]]:
    """The experiments of a commit. DVC lists one twice that failed and then succeeded; the success counts."""
    found = group["experiments"] or []
    done = {one["name"] for one in found if state(one) == DONE}
    return [one for one in found if one["name"] not in done or state(one) == DONE]


def state(experiment: Mapping[str, Any]) -> str:
    """`success`, `queued`, `running` or `failed`."""
    return (experiment["executor"] or {}).get("state") or DONE


def revision(experiment: Mapping[str, Any]) -> str | None:
    """Its commit; None if it failed before it had one."""
    return experiment["revs"][0]["rev"] if experiment["revs"] else None


def run(*words: str) -> str:
    """The output of DVC. Raises UserError with its error message if it fails."""
    return output([sys.executable, "-m", "dvc", *words], f"dvc {' '.join(words[:2])}")


def output(words: Sequence[str], where: str) -> str:
    """The output of a program. Raises UserError with its error message if it fails."""
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        errors = [line for line in said if line.startswith(("ERROR", "fatal"))] or said
        raise UserError(where, errors[-1], _fix(), USAGE)
    return done.stdout


def _fix() -> str:
    if problem := git_here.problem():
        return problem.fix
    if git_here.text("rev-parse", "--verify", "--quiet", "HEAD"):
        return "see its message, then try again"
    return "experiments need a commit: `git add .`, `git commit`"
