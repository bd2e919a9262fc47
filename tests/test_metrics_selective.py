"""Risk-coverage curves and reliability bins against scikit-learn, SciPy and their definitions."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics import (
    Resampler,
    aurc,
    clustered_interval,
    coverage_at_risk,
    ece,
    excess_aurc,
    reliability_bins,
    risk_at_coverage,
    risk_coverage,
    row_statistic,
    selective_coverage_statistic,
    selective_risk_statistic,
)

ROWS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=5)


def sample(n=200, seed=0, problems=40):
    rng = np.random.default_rng(seed)
    p = np.round(rng.random(n), 2)
    return (rng.random(n) < p).astype(int), p, rng.permutation(np.arange(n) % problems)


@given(ROWS)
def test_the_curve_averages_over_the_orders_of_ties(rows):
    y, s = (np.array(column) for column in zip(*rows, strict=True))
    steps = np.arange(1, y.size + 1)
    curves = [
        np.cumsum(1 - y[list(order)]) / steps
        for order in itertools.permutations(range(y.size))
        if (np.diff(s[list(order)]) <= 0).all()
    ]
    curve = risk_coverage(y, s)
    assert curve.risk == pytest.approx(np.mean(curves, axis=0))
    assert curve.coverage == pytest.approx(steps / y.size)
    assert curve.risk.mean() == pytest.approx(aurc(y, s))


def test_the_curve_at_thresholds_is_the_risk_of_what_they_keep():
    y, s, _ = sample()
    curve = risk_coverage(y, s)
    for threshold in np.unique(s):
        kept = s >= threshold
        assert curve.risk[kept.sum() - 1] == pytest.approx(1 - y[kept].mean())


def test_risk_at_coverage_answers_the_fewest_traces_that_reach_it():
    y, s = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 1]), np.arange(10.0, 0, -1)
    assert [risk_at_coverage(y, s, c) for c in (0.01, 0.1, 0.3, 0.31, 1.0)] == pytest.approx(
        [0, 0, 1 / 3, 1 / 4, 6 / 10])
    for k in range(1, 50):  # k / 49 is never missed by a rounding error
        answered = np.r_[np.zeros(k), np.ones(49 - k)]
        assert risk_at_coverage(answered, -answered, k / 49) == 1


def test_coverage_at_risk_is_the_last_point_of_the_curve_that_is_good_enough():
    y, s = np.array([1, 0, 1, 1, 0, 0]), np.arange(6.0, 0, -1)  # risks 0 1/2 1/3 1/4 2/5 1/2
    assert [coverage_at_risk(y, s, r) for r in (0, 0.25, 0.3, 0.4, 0.49, 0.5)] == pytest.approx(
        [1 / 6, 4 / 6, 4 / 6, 5 / 6, 5 / 6, 1])
    assert coverage_at_risk(1 - y, s, 0.1) == 0


def test_excess_aurc_is_above_the_best_of_all_orders():
    y, s, _ = sample(6, seed=3)
    best = min(aurc(y, np.array(order)) for order in itertools.permutations(range(6)))
    assert excess_aurc(y, s) == pytest.approx(aurc(y, s) - best)
    assert excess_aurc(y, y) == 0
    valid = 3000  # the limit in the paper, r + (1 - r) ln(1 - r) at r = 1/4, is aurc - e-aurc
    y = np.r_[np.ones(valid), np.zeros(valid // 3)]
    assert aurc(y, y) == pytest.approx(0.25 + 0.75 * np.log(0.75), abs=1e-3)


def copied(resampler, groups, counts):
    """Rows of each drawn problem, once per draw, and the draw they belong to."""
    drawn = [(problem, copy) for problem, times in zip(resampler.problems, counts, strict=True)
             for copy in range(times)]
    return [np.flatnonzero(groups == problem) for problem, _ in drawn]


def test_selective_statistics_weigh_the_copied_problems_alike():
    y, p, groups = sample(190)  # problems of four and of five traces
    answered = p > 0.6
    resampler = Resampler(groups, n_resamples=50)
    risks = selective_risk_statistic(y, answered, resampler)(resampler.counts)
    coverages = selective_coverage_statistic(answered, resampler)(resampler.counts)
    for risk, coverage, counts in zip(risks, coverages, resampler.counts, strict=True):
        rows = copied(resampler, groups, counts)
        given_ = np.array([answered[mine].mean() for mine in rows])
        wrong = np.array([(answered[mine] & (y[mine] == 0)).mean() for mine in rows])
        assert risk == pytest.approx(wrong.mean() / given_.mean())
        assert coverage == pytest.approx(given_.mean())


def test_with_problems_of_equal_size_the_risk_is_that_of_the_rows():
    y, p, groups = sample()
    resampler = Resampler(groups, n_resamples=20)
    answered = p > 0.8
    interval = clustered_interval(selective_risk_statistic(y, answered, resampler), resampler)
    assert interval.estimate == pytest.approx(1 - y[answered].mean())
    nothing = selective_risk_statistic(y, np.zeros(200, bool), resampler)
    assert np.isnan(nothing(resampler.counts)).all()


@pytest.mark.parametrize("metric", [
    excess_aurc, lambda y, s: coverage_at_risk(y, s, 0.2), lambda y, s: risk_at_coverage(y, s, 0.3),
])
def test_intervals_over_problems_come_from_row_statistic(metric):
    y, p, groups = sample()
    resampler = Resampler(groups, n_resamples=200)
    statistic = row_statistic(lambda rows: metric(y[rows], p[rows]), resampler)
    interval = clustered_interval(statistic, resampler)
    rows = np.concatenate(copied(resampler, groups, resampler.counts[7]))
    assert statistic(resampler.counts[7:8])[0] == pytest.approx(metric(y[rows], p[rows]))
    assert interval.low <= interval.estimate == metric(y, p) <= interval.high


@given(st.integers(1, 60), st.integers(1, 12))
def test_bins_of_equal_width_are_sklearns_and_add_up_to_ece(n, bins):
    y, p, _ = sample(n, seed=n)
    share, mean = calibration_curve(y, p, n_bins=bins, pos_label=1)
    found = reliability_bins(y, p, bins)
    assert found.mean_predicted == pytest.approx(mean)
    assert found.share_valid == pytest.approx(share)
    gaps = np.abs(found.mean_predicted - found.share_valid)
    assert (found.counts * gaps).sum() / n == pytest.approx(ece(y, p, bins), abs=1e-12)
    assert found.counts.sum() == n


@pytest.mark.parametrize(("n", "bins"), [(60, 6), (61, 6), (5, 8), (10, 3), (1, 2), (7, 1)])
def test_bins_of_equal_count_split_the_sorted_probabilities(n, bins):
    rng = np.random.default_rng(n)
    p, y = rng.permutation(np.linspace(0.01, 0.99, n)), rng.integers(0, 2, n)
    found = reliability_bins(y, p, bins, strategy="count")
    ends = [math.ceil(m * n / bins) for m in range(bins + 1)]
    order = np.argsort(p)
    parts = [order[a:b] for a, b in itertools.pairwise(ends) if b > a]
    assert found.counts.tolist() == [part.size for part in parts]
    assert np.ptp([part.size for part in parts]) <= 1
    assert found.mean_predicted == pytest.approx([p[part].mean() for part in parts])
    assert found.share_valid == pytest.approx([y[part].mean() for part in parts])


def test_equal_probabilities_share_a_bin():
    y, p = [0, 1, 1, 0, 1, 1], [0.2, 0.5, 0.5, 0.5, 0.5, 0.9]
    found = reliability_bins(y, p, 6, strategy="count")
    assert found.mean_predicted == pytest.approx([0.2, 0.5, 0.9])
    assert found.counts.tolist() == [1, 4, 1]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_of_bins_are_scipys_wilson(level):
    y, p, _ = sample(300, seed=5)
    found = reliability_bins(np.r_[y, 0, 1], np.r_[p, 0.001, 0.999], 40, level=level)
    for share, count, low, high in zip(*found[1:], strict=True):
        theirs = binomtest(round(share * count), int(count)).proportion_ci(level, "wilson")
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_bad_arguments_raise():
    y, p, groups = sample(40)
    resampler = Resampler(groups, n_resamples=5)
    for wrong in (0, 1.1):
        with pytest.raises(ParameterError, match="coverage"):
            risk_at_coverage(y, p, wrong)
    with pytest.raises(ParameterError, match="max_risk"):
        coverage_at_risk(y, p, -0.1)
    with pytest.raises(ParameterError, match="strategy"):
        reliability_bins(y, p, strategy="both")
    with pytest.raises(ParameterError, match="bins"):
        reliability_bins(y, p, 0)
    with pytest.raises(ScoreError, match=r"P\(valid\)"):
        reliability_bins(y, p * 3)
    with pytest.raises(LabelError, match="booleans"):
        selective_coverage_statistic(p, resampler)
    with pytest.raises(ScoreError, match="made for 40 traces"):
        selective_risk_statistic(y[:10], p[:10] > 0.5, resampler)
