"""How sure a figure is: intervals of a share, a paired test of two models, and the agreement of two judges."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # 95 % of a normal distribution lie within as many standard deviations


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the share hits / n; unlike the normal one it is right near 0 and 1.

    Raises ValueError unless 0 <= hits <= n and n > 0.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} hits of {n}")
    share = hits / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(name: str, hits: Sequence[bool]) -> dict[str, float | int | None]:
    """The share of hits as metrics: `<name>`, its 95 % interval, and of how many; None where there are none."""
    value, (low, high) = None, (None, None)
    if hits:
        value, (low, high) = sum(hits) / len(hits), wilson(sum(hits), len(hits))
    return {name: value, f"{name}_ci95_low": low, f"{name}_ci95_high": high, f"{name}_n": len(hits)}


def mcnemar(only_first: int, only_second: int) -> float:
    """The probability that two equally good models differ this much or more (McNemar's exact test, two-sided).

    Of the same questions, `only_first` were right with the first model alone and `only_second` with the second.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail: float = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    return min(1.0, 2 * tail)


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The linear correlation, -1 to 1; None where it is undefined: fewer than two pairs, or a side without spread."""
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} values are no pairs")
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    dx, dy = [value - mean_x for value in x], [value - mean_y for value in y]
    covariance = math.fsum(a * b for a, b in zip(dx, dy, strict=True))
    return covariance / math.sqrt(math.fsum(a * a for a in dx) * math.fsum(b * b for b in dy))


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The correlation of the ranks, ties sharing their mean rank; None as in `pearson`."""
    return pearson(ranks(x), ranks(y))


def kendall(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b, which corrects for ties: agreeing less disagreeing pairs of pairs; None as in `pearson`."""
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} values are no pairs")
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    pairs = [(_sign(x[i] - x[j]), _sign(y[i] - y[j])) for i in range(len(x)) for j in range(i)]
    untied_x, untied_y = sum(a != 0 for a, _ in pairs), sum(b != 0 for _, b in pairs)
    return sum(a * b for a, b in pairs) / math.sqrt(untied_x * untied_y)


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value from 1; equal values share the mean of theirs."""
    return [sum(v < value for v in values) + (values.count(value) + 1) / 2 for value in values]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
