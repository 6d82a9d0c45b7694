"""DVC's experiments, by its command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from llm.common import git_here
from llm.common.errors import USAGE, UserError

DONE = "success"
COPIES = "/.dvc/tmp/exps/"  # where DVC makes a copy of the project for each queued experiment
TRIES, WAIT_SECONDS = 20, 0.5
Group = dict[str, Any]  # a commit with its experiments, as `dvc exp show --json` gives it


def by_commit(every_commit: bool = False) -> list[Group]:
    """Git's HEAD, or every commit, with its experiments. Raises UserError if DVC cannot list them.

    While a queued experiment starts or ends, its copy of the project is not whole, and DVC fails. So it is asked again.
    """
    words = ["exp", "show", "--json", *(["--all-commits"] if every_commit else [])]
    for _ in range(TRIES):
        try:
            return _groups(words)
        except UserError as error:
            if COPIES not in error.what:
                raise
            time.sleep(WAIT_SECONDS)
    return _groups(words)


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
    asked = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
    if subprocess.run(asked, capture_output=True, check=False).returncode == 0:
        return "see its message, then try again"
    return "experiments need a commit: `git add .`, `git commit`"
