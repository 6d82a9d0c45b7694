"""What a process knows about its rank without torch: variables that torchrun and our own launcher set."""

from __future__ import annotations

import os

TIMEOUT = "LLM_RANKS_TIMEOUT"  # seconds that a rank waits for another; the launcher sets it


def is_first() -> bool:
    """Whether this process is the first rank, which writes and reports; also if it is the only one."""
    return "WORLD_SIZE" not in os.environ or os.environ.get("RANK", "0") == "0"  # without it, RANK is not of a launcher
