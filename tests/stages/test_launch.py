"""Which error of several ranks is the cause."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from llm.common.errors import BUG, INTERRUPTED, RESOURCES, TERMINATED, UserError
from llm.common.files import write_json
from stages import launch

STOP = UserError("interrupted", "by SIGINT; step 5 is saved, nothing was published", "run the same command again")
GONE = UserError("internal", "RuntimeError: Connection closed by peer", "report it", BUG)


def cause(folder: Path, codes: dict[int, int], reports: dict[int, UserError]) -> list[str]:
    for rank in codes:
        found = [reports[rank]] if rank in reports else []
        write_json(
            folder / f"{rank}.json", [{key: getattr(p, key) for key in ("where", "what", "fix", "code")} for p in found]
        )
    return [problem.what for problem in launch._cause(codes, range(len(codes)), len(codes), folder)]


@pytest.mark.parametrize("other", [INTERRUPTED, TERMINATED, -signal.SIGTERM])
@pytest.mark.parametrize("first", [0, 1])
def test_the_stop_of_one_rank_is_told_whichever_way_the_other_was_cut_off(
    tmp_path: Path, other: int, first: int
) -> None:
    assert cause(tmp_path, {first: INTERRUPTED, 1 - first: other}, {first: STOP}) == [STOP.what]


def test_a_lost_connection_after_a_stop_is_no_cause(tmp_path: Path) -> None:
    assert cause(tmp_path, {0: BUG, 1: INTERRUPTED}, {0: GONE, 1: STOP}) == [STOP.what]


def test_a_killed_rank_is_the_cause_also_if_another_was_stopped(tmp_path: Path) -> None:
    codes = {0: INTERRUPTED, 1: -signal.SIGKILL}
    assert cause(tmp_path, codes, {0: STOP}) == ["was killed (SIGKILL; perhaps memory ran out), nothing was published"]
    assert launch._cause(codes, range(2), 2, tmp_path)[0].code == RESOURCES
