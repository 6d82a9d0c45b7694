"""Confidence interval of a proportion, paired test of two models, correlation of two judges.

SciPy is imported inside functions, because it takes about 0.8 s and the training stages need only the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Measure = Literal["pearson", "spearman", "kendall"]
Z95 = 1.959963984540054  # 95 % of a normal distribution lie within this many standard deviations of the mean


def wilson(hits: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the proportion hits / n, which also holds near 0 and 1.

    `hits` may hold halves, for ties. The interval is then a little too wide, since ties vary less.

    Raises ValueError unless 0 <= hits <= n and n > 0.
    """
    if not 0 <= hits <= n or n == 0:
        raise ValueError(f"{hits} hits of {n}")
    share = hits / n
    middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return middle - half if hits else 0.0, middle + half if hits < n else 1.0  # exact ends, without rounding errors


def share(name: str, hits: Sequence[bool]) -> dict[str, float | int | None]:
    """Metrics of a proportion: `<name>`, its 95 % interval and the number of examples; None without examples."""
    return proportion(name, sum(hits), len(hits)) | {f"{name}_n": len(hits)}


def proportion(name: str, hits: float, n: int) -> dict[str, float | None]:
    """The metric hits / n and its 95 % interval; None if n is 0."""
    return with_interval(name, hits / n, wilson(hits, n)) if n else with_interval(name, None, None)


def with_interval(name: str, value: float | None, interval: tuple[float, float] | None) -> dict[str, float | None]:
    """A metric and its 95 % interval."""
    low, high = interval or (None, None)
    return {name: value, f"{name}_ci95_low": low, f"{name}_ci95_high": high}


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test that two models are equally good.

    `only_first` examples are correct with the first model only, `only_second` with the second only.
    """
    from scipy.stats import binomtest

    n = only_first + only_second
    return float(binomtest(only_first, n).pvalue) if n else 1.0


def correlation(measure: Measure, x: Sequence[float], y: Sequence[float]) -> float | None:
    """The correlation of two series of the same length; `kendall` is tau-b.

    None if it is undefined: with fewer than two pairs, or if all values of a series are equal.
    """
    if len(set(x)) < 2 or len(set(y)) < 2:
        return None
    from scipy import stats

    measures = {"pearson": stats.pearsonr, "spearman": stats.spearmanr, "kendall": stats.kendalltau}
    return float(measures[measure](x, y).statistic)
