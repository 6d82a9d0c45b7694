"""Differences between two models: paired on the same examples, or from the intervals of two separate samples.

Of the stages, only reason_compare imports this file, which takes a second to run again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 9_999
AT_ONCE = 10_000_000  # resampled values in memory; the results do not depend on it
SEED = 123  # so that the same answers always give the same interval and p-value
Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """A mean difference, second minus first."""

    mean: float
    interval: Interval  # 95 %
    p: float  # two-sided


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare the values of two models on the same examples.

    The interval is the percentile bootstrap over the examples. The p-value is of the permutation test that changes the
    signs of the differences: exact for few examples, else from RESAMPLES random choices.

    Raises ValueError if the series are empty or have different lengths.
    """
    import numpy as np
    from scipy import stats

    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values")
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    mean = float(differences.mean())
    options = {"n_resamples": RESAMPLES, "vectorized": True, "batch": max(1, AT_ONCE // len(differences))}
    interval = (mean, mean)  # if all differences are equal, there is nothing to resample
    if np.ptp(differences):
        rng = np.random.default_rng(SEED)
        found = stats.bootstrap((differences,), np.mean, method="percentile", rng=rng, **options).confidence_interval
        interval = (float(found.low), float(found.high))
    changed = differences[differences != 0]  # zeros have no sign
    if len(changed) < 2:  # of two signs, one is as likely as the other
        return Difference(mean, interval, 1.0)
    rng = np.random.default_rng(SEED)
    tested = stats.permutation_test((changed,), np.sum, permutation_type="samples", rng=rng, **options)
    return Difference(mean, interval, float(tested.pvalue))


def unpaired_interval(first: float, around_first: Interval, second: float, around_second: Interval) -> Interval:
    """The 95 % interval of second - first from the intervals of two independent estimates.

    Newcombe (1998), method 10: with Wilson intervals it is the usual one of two proportions.
    """
    low = second - first - math.hypot(second - around_second[0], around_first[1] - first)
    high = second - first + math.hypot(around_second[1] - second, first - around_first[0])
    return low, high
