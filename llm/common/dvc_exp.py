"""DVC's experiments, by its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from llm.common.errors import USAGE, UserError

DONE = "success"
Group = dict[str, Any]  # a commit with its experiments, as `dvc exp show --json` gives it


def by_commit(every_commit: bool = False) -> list[Group]:
    """Git's HEAD, or every commit, with its experiments. Raises UserError if DVC cannot list them."""
    groups: list[Group] = json.loads(run("exp", "show", "--json", *(["--all-commits"] if every_commit else [])))
    return groups


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
        fix = "experiments need a git repository with a commit: `git init`, `git add`, `git commit`"
        raise UserError(where, errors[-1], fix, USAGE)
    return done.stdout
