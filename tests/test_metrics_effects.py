"""Effect sizes and tests against SciPy, brute force, and their level under clustered noise."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gamma
from scipy.stats import false_discovery_control, mannwhitneyu, rankdata, ttest_ind

from validator.errors import FeatureMismatchError, LabelError, ParameterError, ScoreError
from validator.metrics import (
    Resampler,
    auroc,
    benjamini_hochberg,
    clustered_interval,
    cohens_d,
    cohens_d_statistic,
    effect_table,
    hedges_g,
    mann_whitney_p,
    permutation_p,
    within_problem_auroc,
)


def sample(n=120, problems=30, seed=0, shift=0.5):
    """Labels, scores with ties, problem ids; scores and labels share the problem's difficulty."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.arange(n) % problems)
    ease = rng.normal(size=problems)[groups]
    labels = (ease + rng.normal(size=n) > 0).astype(int)
    return labels, np.round(shift * labels + ease + rng.normal(size=n), 1), groups


def clustered_noise(rng, problems=60, size=6):
    """Labels and scores that know the problem, and nothing of each other."""
    groups = np.repeat(np.arange(problems), size)
    a, b = rng.normal(size=(2, problems))
    labels = (2 * a[groups] + rng.normal(size=groups.size) > 0).astype(int)
    return labels, 2 * b[groups] + rng.normal(size=groups.size), groups


@given(st.integers(3, 60))
def test_cohens_d_is_the_t_statistic_in_other_units(n):
    rng = np.random.default_rng(n)
    y, s = rng.integers(0, 2, n), rng.normal(size=n) * 1e3 + 1e6
    y[:2] = 0, 1
    valid, invalid = s[y == 1], s[y == 0]
    t = ttest_ind(valid, invalid).statistic
    assert cohens_d(y, s) == pytest.approx(t * np.sqrt(1 / valid.size + 1 / invalid.size))
    assert cohens_d(1 - y, s) == pytest.approx(-cohens_d(y, s))


def test_hedges_g_is_unbiased_where_cohens_d_is_not():
    y, s, _ = sample(12)
    m = y.size - 2
    factor = gamma(m / 2) / (np.sqrt(m / 2) * gamma((m - 1) / 2))
    assert hedges_g(y, s) == pytest.approx(cohens_d(y, s) * factor)
    assert factor == pytest.approx(1 - 3 / (4 * m - 1), abs=1e-3)  # the usual approximation
    rng, y = np.random.default_rng(0), np.array([0, 0, 0, 1, 1, 1])
    draws = rng.normal(size=(1500, 6)) + y
    assert np.mean([hedges_g(y, row) for row in draws]) == pytest.approx(1.0, abs=0.08)
    assert np.mean([cohens_d(y, row) for row in draws]) > 1.13


def test_d_of_every_resample_is_that_of_the_copied_rows():
    y, s, groups = sample()
    s = s * 1e-3 + 50.0
    resampler = Resampler(groups, n_resamples=100)
    values = cohens_d_statistic(y, s, resampler)(resampler.counts)
    for value, counts in zip(values, resampler.counts, strict=True):
        rows = np.repeat(np.arange(y.size), counts[resampler.index])
        assert value == pytest.approx(cohens_d(y[rows], s[rows]))
    interval = clustered_interval(cohens_d_statistic(y, s, resampler), resampler)
    assert interval.estimate == pytest.approx(cohens_d(y, s))
    assert interval.low < interval.estimate < interval.high


def test_draws_without_a_spread_or_a_class_have_no_d():
    y, s, groups = np.array([0, 0, 1, 1, 1]), np.array([0.1, 0.1, 0.3, 0.3, 0.7]), np.arange(5)
    resampler = Resampler(groups, n_resamples=1)
    counts = np.array([[2, 1, 1, 1, 0], [3, 2, 0, 0, 0], [1, 1, 1, 1, 1]])
    values = cohens_d_statistic(y, s, resampler)(counts)
    assert np.isnan(values[:2]).all()
    assert values[2] == pytest.approx(cohens_d(y, s))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=3, max_size=40))
def test_the_u_test_is_scipys_with_ties(rows):
    y, s = (np.array(column) for column in zip(*rows, strict=True))
    y[:2] = 0, 1
    if np.ptp(s) == 0:
        assert mann_whitney_p(y, s) == 1
        return
    theirs = mannwhitneyu(s[y == 1], s[y == 0], method="asymptotic").pvalue
    assert mann_whitney_p(y, s) == pytest.approx(theirs, rel=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_benjamini_hochberg_is_scipys(p_values):
    assert benjamini_hochberg(p_values) == pytest.approx(false_discovery_control(p_values))


def test_a_missing_p_value_is_no_test():
    adjusted = benjamini_hochberg([0.01, np.nan, 0.02, 0.5])
    assert np.isnan(adjusted[1])
    assert adjusted[[0, 2, 3]] == pytest.approx(false_discovery_control([0.01, 0.02, 0.5]))
    with pytest.raises(ScoreError):
        benjamini_hochberg([0.5, 1.5])


def test_the_table_is_the_single_tests_column_by_column():
    y, s, groups = sample(200, 40)
    rng = np.random.default_rng(1)
    X = np.column_stack([s, -s, rng.normal(size=(200, 3)), np.round(rng.normal(size=200)),
                         np.exp(s)]).astype(np.float32)
    X[rng.random(200) < 0.3, 2] = np.nan
    X[rng.random(200) < 0.5, 4] = np.nan
    table = effect_table(X, [f"c{i}" for i in range(7)], y, groups)
    for i, column in enumerate(X.T.astype(float)):
        rows = ~np.isnan(column)
        assert (table.n_valid[i], table.n_invalid[i]) == (y[rows].sum(), (1 - y[rows]).sum())
        assert table.d[i] == pytest.approx(cohens_d(y[rows], column[rows]))
        assert table.auroc[i] == pytest.approx(auroc(y[rows], column[rows]), abs=1e-12)
        assert table.p[i] == pytest.approx(mann_whitney_p(y[rows], column[rows]))
        assert table.p_clustered[i] == pytest.approx(
            clustered_score_test(y[rows], column[rows], groups[rows]))
    for p, adjusted in ((table.p, table.p_adjusted),
                        (table.p_clustered, table.p_clustered_adjusted)):
        assert adjusted == pytest.approx(false_discovery_control(p))
    assert set(table.reasons) == {""}


def clustered_score_test(y, s, groups):
    from scipy.stats import norm

    ranks = rankdata(s)
    sums = [sum((y[i] - y.mean()) * (ranks[i] - ranks.mean()) for i in np.flatnonzero(groups == g))
            for g in np.unique(groups)]
    return 2 * norm.sf(abs(sum(sums)) / np.sqrt(sum(t**2 for t in sums)))


def test_with_one_trace_for_each_problem_the_clustered_test_is_the_u_test():
    rng = np.random.default_rng(2)
    y, X = rng.integers(0, 2, 2000), rng.normal(size=(2000, 50))
    table = effect_table(X, [str(i) for i in range(50)], y, np.arange(2000))
    assert table.p_clustered == pytest.approx(table.p, abs=0.02)


def test_undefined_columns_say_why():
    y, s, groups = sample(40, 10)
    X = np.column_stack([s, np.full(40, 3.3), 7.0 * y, np.where(y == 1, s, np.nan),
                         np.where(groups < 1, s, np.nan)])
    table = effect_table(X, list("abcde"), y, groups)
    assert table.reasons == ("", "constant", "constant", "too-few", "too-few")
    assert np.isnan(table.d[1:]).all()
    assert (table.auroc[1], table.p[1], table.p_clustered[1]) == (0.5, 1.0, 1.0)
    assert table.auroc[2] == 1
    assert table.p_clustered[2] < 0.01
    assert np.isnan(table.p_clustered_adjusted[3:]).all()
    assert (table.n_invalid[3], table.n_valid[3]) == (0, y.sum())


def test_the_u_test_rejects_clustered_noise_and_the_clustered_test_does_not():
    rng = np.random.default_rng(0)
    naive, clustered = np.array([
        (t.p[0] < 0.05, t.p_clustered[0] < 0.05)
        for y, s, g in (clustered_noise(rng) for _ in range(300))
        for t in [effect_table(s[:, None], ["s"], y, g)]
    ]).mean(axis=0)
    assert naive > 0.25  # five times its level: traces of one problem are one observation
    assert 0.015 < clustered < 0.09  # 0.05, binomial sd 0.0126


SCHEMES = ("within", "between", "nested")


def every_permutation(y, groups, scheme):
    """The labels under each permutation of the scheme, one for each element of its group."""
    problems = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    mixed = [0 < y[rows].sum() < rows.size for rows in problems]
    blocks = []  # lists of equally long index arrays that are exchanged with each other
    for rows, both in zip(problems, mixed, strict=True):
        if scheme == "within" or (scheme == "nested" and both):
            blocks.append([[row] for row in rows])
    whole = [rows for rows, both in zip(problems, mixed, strict=True)
             if scheme == "between" or (scheme == "nested" and not both)]
    for size in {rows.size for rows in whole}:
        blocks.append([rows for rows in whole if rows.size == size])
    for orders in itertools.product(*(itertools.permutations(block) for block in blocks)):
        permuted = y.copy()
        for block, order in zip(blocks, orders, strict=True):
            permuted[np.concatenate(block)] = y[np.concatenate(order)]
        yield permuted


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_permutation_p_approaches_the_share_over_all_permutations(scheme, alternative):
    groups = np.array(list("aabbccddeefff"))[[3, 0, 5, 1, 7, 2, 9, 4, 11, 6, 8, 10, 12]]
    rng = np.random.default_rng(8)
    y = rng.integers(0, 2, 13)
    for problem, label in (("a", 1), ("b", 0), ("c", 1)):
        y[groups == problem] = label
    y[groups == "d"], y[groups == "e"], y[groups == "f"] = (0, 1), (1, 0), (0, 1, 1)
    s = np.round(y + rng.normal(scale=1.5, size=13))

    def metric(labels):
        return within_problem_auroc(labels, s, groups) if scheme == "within" else auroc(labels, s)

    values = np.array([metric(labels) for labels in every_permutation(y, groups, scheme)])
    observed = metric(y)
    if alternative == "two-sided":
        observed, values = abs(observed - values.mean()), np.abs(values - values.mean())
    exact = (values >= observed - 1e-9).mean()
    found = permutation_p(y, s, groups, scheme, alternative=alternative, n=4999)
    assert found == pytest.approx(exact, abs=0.03)  # sd below 0.0071
    assert 0.001 < exact < 1
    again = permutation_p(y, s, groups, scheme, alternative=alternative, n=4999)
    assert again == found


def test_the_smallest_p_value_is_one_over_the_draws():
    y, groups = np.tile([0, 1], 60), np.repeat(np.arange(30), 4)
    assert permutation_p(y, y, groups, "within", n=99) == 1 / 100


@pytest.mark.parametrize("scheme", SCHEMES)
def test_permuting_by_problem_keeps_its_level_under_clustered_noise(scheme):
    rng = np.random.default_rng(3)
    p = [permutation_p(*clustered_noise(rng, 24, 4), scheme, n=99) for _ in range(200)]
    assert 0.01 < np.mean(np.array(p) <= 0.05) < 0.1  # 0.05, binomial sd 0.015


def test_permuting_traces_as_if_they_were_problems_does_not():
    rng = np.random.default_rng(3)
    p = [permutation_p(y, s, np.arange(y.size), "between", n=99)
         for y, s, _ in (clustered_noise(rng, 24, 4) for _ in range(200))]
    assert np.mean(np.array(p) <= 0.05) > 0.15


def test_schemes_see_what_they_are_for():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(40), 5)
    ease = rng.normal(size=40)[groups]
    labels = (ease + rng.normal(size=200) > 0).astype(int)
    difficulty = ease + 0.1 * rng.normal(size=200)  # knows the problem, not the trace
    assert permutation_p(labels, difficulty, groups, "within") > 0.05
    assert permutation_p(labels, difficulty, groups, "between") == 1 / 2000
    centred = labels - (np.bincount(groups, labels) / 5)[groups] + rng.normal(size=200)
    assert permutation_p(labels, centred, groups, "within") == 1 / 2000
    assert permutation_p(labels, centred, groups, "nested") < 0.01


def test_twenty_thousand_columns_do_not_take_minutes():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1200, 2000)).astype(np.float32)
    y, groups = rng.integers(0, 2, 1200), np.repeat(np.arange(150), 8)
    start = time.process_time()
    effect_table(X, [str(i) for i in range(2000)], y, groups)
    assert time.process_time() - start < 2  # a tenth of 20 s for 20,000; this takes a tenth of that


def test_bad_arguments_raise():
    y, s, groups = sample(40, 10)
    with pytest.raises(ScoreError, match="constant within both"):
        cohens_d(y, y)
    with pytest.raises(ScoreError, match="finite"):
        cohens_d(y, np.r_[np.inf, s[1:]])
    with pytest.raises(LabelError, match="four traces"):
        hedges_g([0, 1, 1], [1, 2, 3])
    with pytest.raises(ScoreError, match="made for 40"):
        cohens_d_statistic(y[:20], s[:20], Resampler(groups, 5))
    with pytest.raises(LabelError, match="one class"):
        mann_whitney_p(np.ones(40), s)
    with pytest.raises(FeatureMismatchError, match=r"expected features \(40, 2\)"):
        effect_table(s[:, None], ["a", "b"], y, groups)
    with pytest.raises(ScoreError, match="'b'"):
        effect_table(np.column_stack([s, np.r_[-np.inf, s[1:]]]), ["a", "b"], y, groups)
    with pytest.raises(ParameterError, match="scheme"):
        permutation_p(y, s, groups, "across")
    with pytest.raises(LabelError, match="no permutation within"):
        permutation_p(y, s, np.arange(40), "within")
    with pytest.raises(LabelError, match="no permutation between"):
        permutation_p(np.arange(40) >= 20, s, np.repeat([0, 1], [19, 21]), "between")
