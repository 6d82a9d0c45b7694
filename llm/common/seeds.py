"""One seed for one purpose."""

from __future__ import annotations

import hashlib


def derive(seed: int, *labels: object) -> int:
    """A seed for one purpose, independent of the seeds for all others (63 bits)."""
    digest = hashlib.sha256("/".join(str(label) for label in (seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
