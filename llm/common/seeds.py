"""Independent seeds for each use of random numbers."""

from __future__ import annotations

import hashlib


def derive(seed: int, *labels: object) -> int:
    """Return a seed of 63 bits for one purpose, such as `derive(seed, "dropout", step, number)`."""
    digest = hashlib.sha256("/".join(str(label) for label in (seed, *labels)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
