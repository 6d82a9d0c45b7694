"""Paired and unpaired differences, compared with numbers worked by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from llm.evaluate import paired
from llm.evaluate.paired import paired_difference, unpaired_interval
from llm.evaluate.stats import wilson


def test_the_p_value_of_few_examples_is_exact():
    first, second = [0.0, 10.0, 20.0, 5.0], [4.0, 18.0, 19.0, 8.0]
    differences = [b - a for a, b in zip(first, second, strict=True)]
    means = [
        sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in itertools.product((1, -1), repeat=4)
    ]
    by_hand = 2 * min(sum(m >= sum(differences) for m in means), sum(m <= sum(differences) for m in means)) / 16
    found = paired_difference(first, second)
    assert (found.mean, found.p) == (3.5, by_hand)


def test_a_clear_difference_of_many_examples():
    first = [float(n % 7) for n in range(60)]
    second = [value + 1 + (n % 3) for n, value in enumerate(first)]
    found = paired_difference(first, second)
    assert found.mean == 2
    assert found.p < 0.001
    assert 1.7 < found.interval[0] < 2 < found.interval[1] < 2.3
    assert found == paired_difference(first, second)  # the seed is fixed


def test_the_interval_is_about_that_of_student():
    differences = [((n * 37) % 101) - 45.0 for n in range(100)]
    found = paired_difference([0.0] * 100, differences)
    expected = stats.ttest_1samp(differences, 0).confidence_interval()
    assert found.interval == pytest.approx(expected, abs=1.5)


def test_many_examples_are_resampled_in_parts(monkeypatch):
    first, second = [float(n % 3) for n in range(400)], [float(n % 5) for n in range(400)]
    expected = paired_difference(first, second)
    sizes = []
    for name in ("mean", "sum"):
        function = getattr(np, name)

        def spy(values, axis, function=function):
            sizes.append(values.size)
            return function(values, axis=axis)

        monkeypatch.setattr(np, name, spy)
    monkeypatch.setattr(paired, "AT_ONCE", 1_000_000)  # as if there were more examples
    assert paired_difference(first, second) == expected
    assert max(sizes) == 1_000_000


def test_no_difference_at_all():
    found = paired_difference([1.0, 2.0], [1.0, 2.0])
    assert (found.mean, found.interval, found.p) == (0, (0, 0), 1)


def test_one_difference_tells_nothing():
    assert paired_difference([1.0, 2.0, 3.0], [1.0, 2.0, 9.0]).p == 1


def test_the_same_difference_everywhere_is_tested_by_its_sign():
    assert paired_difference([0.0] * 6, [2.0] * 6).p == pytest.approx(2 / 2**6)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1.0], [1.0, 2.0])])
def test_series_without_pairs_are_refused(first, second):
    with pytest.raises(ValueError, match="values"):
        paired_difference(first, second)


def test_newcombes_own_example():
    """Newcombe (1998), table II, example (a): 56/70 and 48/80 give 0.0524 to 0.3339."""
    low, high = unpaired_interval(48 / 80, wilson(48, 80), 56 / 70, wilson(56, 70))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_equal_samples_give_an_interval_around_zero():
    low, high = unpaired_interval(0.5, (0.4, 0.6), 0.5, (0.4, 0.6))
    assert (low, high) == pytest.approx((-0.1 * math.sqrt(2), 0.1 * math.sqrt(2)))
