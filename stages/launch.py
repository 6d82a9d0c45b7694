"""Start the ranks of a stage, and say in one line why they failed.

The stage's own process starts them with PyTorch's elastic launcher, waits, and ends with the code of the rank that
failed first. The ranks end with it. On several machines, the stage is started on each, and starts the ranks there. A
stage that torchrun has started on several ranks joins them.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llm.common.cores import cores
from llm.common.errors import (
    BUG,
    INTERRUPTED,
    RESOURCES,
    SERVICE,
    TERMINATED,
    USAGE,
    UserError,
    error_contract,
    raise_all,
    show_all,
)
from llm.common.files import lock, read_json, write_json
from llm.common.params import Problem, positive
from llm.common.ranks import TIMEOUT
from llm.runtime import meeting

REPORTS = "LLM_RANK_REPORTS"  # the folder for the errors of the ranks; set in ranks that `start` started
LAUNCHER = "LLM_LAUNCHER"  # the process that started the ranks, set in these
PR_SET_PDEATHSIG = 1  # prctl(2)
GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")  # gloo, when another rank has ended
LATE = ("Timed out waiting", "timed out", "timeout")
STOPPED = ("terminated", "interrupted")
LAST_PORT = 65535
ENDPOINT = "params.yaml: launch.endpoint"


class Ranked(Protocol):
    """What the launcher reads of the section `runtime`. An import of its class would tie every stage to the devices."""

    @property
    def ranks(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def device(self) -> str: ...


@dataclass(frozen=True)
class LaunchConfig:
    """How ranks are started. It decides no results."""

    timeout_seconds: float  # how long a rank waits for another
    nodes: int = 1  # machines; each starts as many ranks
    endpoint: str | None = None  # HOST:PORT of the first machine, which must be free there

    def problems(self) -> Iterator[Problem]:
        yield from positive(self, "timeout_seconds", "nodes")
        _, _, port = (self.endpoint or "").rpartition(":")
        if self.nodes > 1 and not (re.fullmatch(r"\S+:\d{1,5}", self.endpoint or "") and 0 < int(port) <= LAST_PORT):
            yield "endpoint", f"{self.endpoint!r}, but nodes is {self.nodes}", "give HOST:PORT of the first machine"

    def problems_with(self, ranks: int) -> Iterator[Problem]:
        """Why so many ranks cannot be divided over the machines."""
        if ranks % self.nodes:
            yield "launch.nodes", f"{self.nodes} machines cannot share {ranks} ranks evenly", "change runtime.ranks"


def is_launched() -> bool:
    """Whether `start` has started this process as a rank."""
    return REPORTS in os.environ


def must_start(ranks: int, config: LaunchConfig | None = None) -> bool:
    """Whether a stage of so many ranks has to start them. `config` is for them, or for this one if they are there.

    Raises UserError if torchrun or the like has started another number.
    """
    started = os.environ.get("WORLD_SIZE")
    if config:
        os.environ[TIMEOUT] = str(config.timeout_seconds)
    if started is None:
        return ranks > 1
    if started != str(ranks):
        what = f"{started} processes were started, but this stage has {ranks}"
        raise UserError("WORLD_SIZE", what, "set runtime.ranks to it, or start the stage without torchrun", USAGE)
    return False


def start(runtime: Ranked, config: LaunchConfig, words: Sequence[str], folder: Path) -> None:
    """Run `python -m WORDS` as the ranks of this machine, and wait. `folder` gets what they print, and their errors.

    Raises UserError with the first cause, if a rank fails; or if another process runs the same.
    """
    for where, what, fix in config.problems_with(runtime.ranks):
        raise UserError(f"params.yaml: {where}", what, fix, USAGE)
    node, number = _node(config.nodes), runtime.ranks // config.nodes
    folder = folder.with_name(f"{folder.name}-{node}") if node else folder  # the machines share the file system
    used = number * runtime.threads
    if runtime.device == "cpu" and used > cores():
        fewer = f"runtime.threads: {max(1, cores() // number)} is faster"
        print(f"{number} ranks x {runtime.threads} threads on {cores()} cores; {fewer}", file=sys.stderr)
    with lock(folder.with_suffix(".lock")):
        if config.nodes > 1:
            meeting.find_first(ENDPOINT, str(config.endpoint), config.nodes, node, config.timeout_seconds)
        _run(config, words, folder, node, range(node * number, (node + 1) * number), runtime.ranks)


def _run(config: LaunchConfig, words: Sequence[str], folder: Path, node: int, mine: range, ranks: int) -> None:
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig as Elastic
    from torch.distributed.launcher.api import elastic_launch

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ |= {REPORTS: str(folder), LAUNCHER: str(os.getpid())}
    quiet: Any = dict.fromkeys(range(len(mine)) if node else range(1, len(mine)), Std.ALL)
    where: dict[str, Any] = {
        "rdzv_backend": "static",
        "run_id": "@".join(words),  # equal on all machines
        "rdzv_endpoint": config.endpoint,
        "rdzv_configs": {"rank": node, "timeout": math.ceil(config.timeout_seconds)},
    }
    if config.nodes == 1:  # no name has to be resolved
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        where = {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
    elastic = Elastic(
        **where,
        min_nodes=config.nodes,
        max_nodes=config.nodes,
        nproc_per_node=len(mine),
        max_restarts=0,
        monitor_interval=0.1,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=quiet),
    )
    try:
        elastic_launch(elastic, sys.executable)("-m", *words)
    except ChildFailedError as error:
        raise_all(_cause({rank: failure.exitcode for rank, failure in error.failures.items()}, mine, ranks, folder))
    except DistError:  # of the launchers
        raise meeting.apart(ENDPOINT, str(config.endpoint), config.nodes) from None
    except SignalException as stop:
        show_all(_last_words(folder, mine[0], signal.Signals(stop.sigval)))
        raise SystemExit(128 + stop.sigval) from None


def _node(nodes: int) -> int:
    """The number of this machine among so many; raises UserError if the environment does not tell it."""
    if nodes == 1:
        return 0
    text = os.environ.get("NODE_RANK", os.environ.get("SLURM_NODEID", ""))
    if not (text.isdecimal() and int(text) < nodes):
        what = f"{text!r} is not from 0 to {nodes - 1}"
        raise UserError("NODE_RANK", what, "set it to the number of this machine; 0 writes the outputs", USAGE)
    return int(text)


def end_with_parent() -> None:
    """On Linux, have the kernel end this process when dvc or the launcher of this rank ends: nothing runs on unseen.

    A rank is killed, and ends at once if its launcher has ended before. A stage gets SIGTERM.
    """
    if sys.platform != "linux":
        return
    prctl = ctypes.CDLL(None).prctl
    if "WORLD_SIZE" in os.environ:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.environ.get(LAUNCHER, str(os.getppid())) != str(os.getppid()):
            os._exit(TERMINATED)
    elif "DVC_STAGE" in os.environ:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def rank_contract() -> Iterator[None]:
    """The error contract of a rank that `start` has started: errors go into a file, and the launcher says why."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))  # after the contract: the launcher says why
    with error_contract(_report):
        _report([])  # from now on, this rank does not print its errors
        yield


def _report(problems: Sequence[UserError]) -> None:
    path = Path(os.environ[REPORTS], f"{os.environ['RANK']}.json")
    write_json(path, [{"where": p.where, "what": p.what, "fix": p.fix, "code": p.code} for p in problems])


def _reported(folder: Path, rank: int) -> list[UserError]:
    path = folder / f"{rank}.json"
    return [UserError(**found) for found in read_json(path)] if path.exists() else []


def _last_words(folder: Path, rank: int, by: signal.Signals) -> list[UserError]:
    """What a rank has reported when it was stopped, or that it had no time to. Before `rank_contract`, it prints it."""
    found = _reported(folder, rank)
    if found or not (folder / f"{rank}.json").exists():
        return found
    how = "interrupted" if by == signal.SIGINT else "terminated"
    what = f"by {by.name}; the ranks were killed before they had saved, nothing was published"
    return [UserError(how, what, "run the same command again; a saved training resumes")]


def _is(problem: UserError, words: Sequence[str]) -> bool:
    """Whether this is an error of the communication with one of these words."""
    return problem.where == "internal" and any(word in problem.what for word in words)


def _cause(codes: dict[int, int], mine: range, ranks: int, folder: Path) -> list[UserError]:
    """The errors of the rank that failed first, judged by the exit codes (negative: a signal) and the reports.

    Only those of this machine (`mine`, of so many `ranks`) are known.

    A rank that ends leaves the others with a closed connection, or waiting; then the launcher ends them by signals.
    """
    reported = {rank: _reported(folder, rank) for rank in mine}
    for problems in reported.values():
        if problems and not any(_is(problem, GONE + LATE) or problem.where in STOPPED for problem in problems):
            return problems
    for rank, problems in reported.items():
        if any(_is(problem, LATE) for problem in problems):
            silent = " and ".join(str(other) for other in mine if not reported[other]) or "another"
            what = f"waited in vain for rank {silent}, nothing was published"
            fix = f"look into {folder}; if the ranks are slow, raise launch.timeout_seconds"
            return [UserError(f"rank {rank} of {ranks}", what, fix, SERVICE)]
    stopped = [reported[rank] for rank, code in codes.items() if code in (INTERRUPTED, TERMINATED) and reported[rank]]
    cut_off = all(
        code in (INTERRUPTED, TERMINATED, -signal.SIGTERM) or any(_is(problem, GONE) for problem in reported[rank])
        for rank, code in codes.items()
    )
    if stopped and cut_off:  # the signal came to one rank, and all agreed to stop; the first one to end cuts off others
        return stopped[0]
    rank = min(codes, key=lambda rank: (codes[rank] == -signal.SIGTERM, codes[rank] >= 0, rank))
    where, code = f"rank {rank} of {ranks}", codes[rank]
    if len(mine) < ranks and any(_is(problem, GONE) for problem in reported[rank]):
        what = "lost the connection to a rank of another machine, nothing was published"
        return [UserError(where, what, "look at the error there", SERVICE)]
    if code < 0:
        name = signal.Signals(-code).name
        what = f"was killed ({name}{'; perhaps memory ran out' if name == 'SIGKILL' else ''}), nothing was published"
        return [UserError(where, what, "run the same command again; a saved training resumes", RESOURCES)]
    return [UserError(where, f"ended with code {code}, nothing was published", f"look into {folder}", BUG)]
