"""Intervals, tests and correlations, compared with numbers worked by hand."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from scipy.stats import binomtest

from llm.common.files import round_floats
from llm.evaluate.stats import Z95, correlation, mcnemar, share, wilson

# --- intervals ---


def test_wilsons_interval_of_no_hits_and_of_all():
    edge = Z95**2 / (10 + Z95**2)
    assert wilson(0, 10) == pytest.approx((0, edge))
    assert wilson(10, 10) == pytest.approx((1 - edge, 1))


def test_wilsons_interval_of_five_of_ten():
    half = Z95 / (1 + Z95**2 / 10) * math.sqrt(0.025 + Z95**2 / 400)
    assert wilson(5, 10) == pytest.approx((0.5 - half, 0.5 + half))


def test_wilsons_interval_equals_that_of_scipy():
    for n in (1, 2, 7, 52, 300):
        for hits in range(n + 1):
            theirs = binomtest(hits, n).proportion_ci(method="wilson")
            assert round_floats(wilson(hits, n)) == round_floats((theirs.low, theirs.high))  # the digits of a report


@pytest.mark.parametrize(("hits", "n"), [(287, 300), (1, 7), (50, 110)])
def test_the_ends_of_wilsons_interval_solve_its_equation(hits, n):
    """The definition: the ends p solve |hits / n - p| = z sqrt(p (1 - p) / n)."""
    for p in wilson(hits, n):
        assert abs(hits / n - p) == pytest.approx(Z95 * math.sqrt(p * (1 - p) / n))


def test_the_books_300_test_messages_cannot_distinguish_less_than_one_point():
    low, high = wilson(285, 300)
    assert low < 287 / 300 < high
    assert not low < 275 / 300 < high


@pytest.mark.parametrize(("hits", "n"), [(-1, 3), (4, 3), (0, 0)])
def test_an_invalid_proportion_is_an_error(hits, n):
    with pytest.raises(ValueError, match="hits of"):
        wilson(hits, n)


def test_a_proportion_has_an_interval_and_a_count():
    low, high = wilson(3, 4)
    assert share("accuracy", [True, True, False, True]) == {
        "accuracy": 0.75,
        "accuracy_ci95_low": low,
        "accuracy_ci95_high": high,
        "accuracy_n": 4,
    }
    assert share("a", []) == {"a": None, "a_ci95_low": None, "a_ci95_high": None, "a_n": 0}


# --- paired test ---


@pytest.mark.parametrize(
    ("first", "second", "p"), [(0, 0, 1.0), (3, 3, 1.0), (0, 1, 1.0), (0, 5, 2 / 32), (5, 0, 2 / 32), (1, 5, 14 / 64)]
)
def test_mcnemars_test_by_hand(first, second, p):
    assert mcnemar(first, second) == pytest.approx(p)


def test_mcnemars_test_is_twice_the_tail_of_the_binomial_distribution():
    for first in range(12):
        for second in range(12):
            n, fewer = first + second, min(first, second)
            tail = sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
            assert mcnemar(first, second) == pytest.approx(min(1, 2 * tail))


# --- correlations ---


def test_correlations_by_hand():
    x, y = [1, 2, 3, 4], [1, 3, 2, 9]
    assert correlation("pearson", x, y) == pytest.approx(
        (-1.5 * -2.75 - 0.5 * -0.75 + 0.5 * -1.75 + 1.5 * 5.25) / math.sqrt(5 * 38.75)
    )
    assert correlation("spearman", x, y) == pytest.approx(1 - 6 * 2 / (4 * 15))  # 1 - 6 sum d^2 / (n (n^2 - 1))
    assert correlation("kendall", x, y) == pytest.approx((5 - 1) / 6)


def test_correlations_with_ties_by_hand():
    # Spearman: ties share their mean rank, so the ranks are 1, 2.5, 2.5 and 1, 2, 3.
    assert correlation("spearman", [1, 2, 2], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))
    # Kendall's tau-b: two of three pairs agree, one is tied in x only.
    assert correlation("kendall", [1, 2, 2], [1, 2, 3]) == pytest.approx(2 / math.sqrt(2 * 3))


MEASURES = ["pearson", "spearman", "kendall"]


@pytest.mark.parametrize("measure", MEASURES)
def test_a_correlation_is_1_with_itself_and_minus_1_with_its_negative(measure):
    x = [3, 1, 4, 1, 5]
    assert correlation(measure, x, x) == pytest.approx(1)
    assert correlation(measure, x, [-value for value in x]) == pytest.approx(-1)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(("x", "y"), [([], []), ([1], [2]), ([1, 1, 1], [1, 2, 3]), ([1, 2], [5, 5])])
def test_constant_values_have_no_correlation(measure, x, y):
    assert correlation(measure, x, y) is None


def test_the_metrics_of_a_stage_do_not_load_scipy():
    code = "import sys; from llm.evaluate import stats; stats.share('a', [True]); sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False).returncode == 0
