"""Intervals against an explicit loop that copies the rows of every drawn problem."""

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics import (
    Interval,
    PerProblem,
    Resampler,
    auroc,
    auroc_statistic,
    best_of_n,
    clustered_interval,
    ece,
    first_answer,
    length_matched_auroc,
    length_matched_statistic,
    mean_statistic,
    paired_difference,
    row_statistic,
    stratified_statistic,
    within_problem_auroc,
    within_problem_statistic,
)

PROBLEMS, SAMPLES = 60, 4


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(3)
    groups = np.array([f"q{i}" for i in rng.permutation(np.repeat(np.arange(PROBLEMS), SAMPLES))])
    labels = rng.integers(0, 2, groups.size)
    scores = np.round(labels + rng.normal(scale=1.5, size=groups.size), 1)  # with ties
    return labels, scores, groups


def drawn_rows(resampler, groups, counts):
    """The rows of each drawn problem, once per draw, and an id that tells the draws apart."""
    rows, ids = [], []
    for problem, times in zip(resampler.problems, counts, strict=True):
        for copy in range(times):
            mine = np.flatnonzero(groups == problem)
            rows.append(mine)
            ids += [(f"{problem}/{copy}")] * mine.size
    return np.concatenate(rows), np.array(ids)


def test_counts_draw_as_many_problems_as_there_are_and_follow_the_seed(data):
    resampler = Resampler(data[2], n_resamples=2000, seed=5)
    assert resampler.counts.shape == (2000, PROBLEMS)
    assert (resampler.counts.sum(axis=1) == PROBLEMS).all()
    assert np.allclose(resampler.counts.mean(axis=0), 1, atol=0.12)
    variance = resampler.counts.var(axis=0).mean()
    assert variance == pytest.approx(1 - 1 / PROBLEMS, abs=0.02)
    again, other = Resampler(data[2], 2000, seed=5), Resampler(data[2], 2000, seed=6)
    assert np.array_equal(again.counts, resampler.counts)
    assert not np.array_equal(other.counts, resampler.counts)


def test_auroc_of_every_resample_is_sklearns_on_the_copied_rows(data):
    labels, scores, groups = data
    resampler = Resampler(groups, n_resamples=150)
    values = auroc_statistic(labels, scores, resampler)(resampler.counts)
    for value, counts in zip(values, resampler.counts, strict=True):
        rows, _ = drawn_rows(resampler, groups, counts)
        assert value == auroc(labels[rows], scores[rows])  # exactly: integer weights
        assert value == pytest.approx(roc_auc_score(labels[rows], scores[rows]), abs=1e-12)


def test_within_problem_auroc_of_every_resample_is_that_of_the_copied_problems(data):
    labels, scores, groups = data
    resampler = Resampler(groups, n_resamples=40)
    values = within_problem_statistic(labels, scores, resampler)(resampler.counts)
    for value, counts in zip(values, resampler.counts, strict=True):
        rows, ids = drawn_rows(resampler, groups, counts)
        assert value == pytest.approx(within_problem_auroc(labels[rows], scores[rows], ids))


def test_length_matched_auroc_of_every_resample_keeps_the_bins_of_the_data(data):
    labels, scores, groups = data
    lengths = np.random.default_rng(4).integers(5, 200, labels.size)
    resampler = Resampler(groups, n_resamples=25)
    statistic = length_matched_statistic(labels, scores, lengths, resampler, bins=4)
    whole = statistic(np.ones((1, PROBLEMS), dtype=int))[0]
    assert whole == pytest.approx(length_matched_auroc(labels, scores, lengths, bins=4))
    edges = [sorted(lengths)[k * lengths.size // 4] for k in (1, 2, 3)]
    where = np.array([sum(length >= edge for edge in edges) for length in lengths])
    for value, counts in zip(statistic(resampler.counts), resampler.counts, strict=True):
        rows, _ = drawn_rows(resampler, groups, counts)
        y, s, b = labels[rows], scores[rows], where[rows]
        pair = (y[:, None] == 1) & (y == 0) & (b[:, None] == b)
        wins = (s[:, None] > s) + 0.5 * (s[:, None] == s)
        assert value == pytest.approx(wins[pair].mean())


def test_stratified_auroc_counts_pairs_of_one_stratum(data):
    labels, scores, groups = data
    strata = np.random.default_rng(5).choice(["a", "b", "c"], labels.size)
    resampler = Resampler(groups, n_resamples=25)
    statistic = stratified_statistic(labels, scores, strata, resampler)
    for value, counts in zip(statistic(resampler.counts), resampler.counts, strict=True):
        rows, _ = drawn_rows(resampler, groups, counts)
        y, s, b = labels[rows], scores[rows], strata[rows]
        pair = (y[:, None] == 1) & (y == 0) & (b[:, None] == b)
        wins = (s[:, None] > s) + 0.5 * (s[:, None] == s)
        assert value == pytest.approx(wins[pair].mean())


def test_mean_and_row_statistics_are_those_of_the_copied_rows(data):
    labels, scores, groups = data
    resampler = Resampler(groups, n_resamples=30)
    probs = 1 / (1 + np.exp(-scores))
    means = mean_statistic(best_of_n(labels, scores, groups), resampler)(resampler.counts)
    errors = row_statistic(lambda rows: ece(labels[rows], probs[rows]), resampler)
    for mean, error, counts in zip(means, errors(resampler.counts), resampler.counts, strict=True):
        rows, ids = drawn_rows(resampler, groups, counts)
        assert mean == pytest.approx(best_of_n(labels[rows], scores[rows], ids).values.mean())
        assert error == pytest.approx(ece(labels[rows], probs[rows]))


def test_the_interval_is_the_estimate_and_percentiles_of_the_draws(data):
    labels, scores, groups = data
    resampler = Resampler(groups)
    statistic = auroc_statistic(labels, scores, resampler)
    interval = clustered_interval(statistic, resampler, level=0.9)
    draws = statistic(resampler.counts)
    assert (interval.estimate, interval.undefined) == (auroc(labels, scores), 0)
    expected = tuple(np.quantile(draws, [0.05, 0.95]))
    assert (interval.low, interval.high) == pytest.approx(expected)
    narrow = clustered_interval(statistic, resampler, level=0.5)
    assert interval.low < narrow.low < narrow.estimate < narrow.high < interval.high


def test_problems_are_the_unit_so_copied_traces_do_not_narrow_the_interval(data):
    labels, scores, groups = data
    once = Resampler(groups)
    tenfold = Resampler(np.tile(groups, 10))
    a = clustered_interval(auroc_statistic(labels, scores, once), once)
    b = clustered_interval(
        auroc_statistic(np.tile(labels, 10), np.tile(scores, 10), tenfold), tenfold
    )
    assert a == b


def test_a_paired_difference_uses_the_same_resamples(data):
    labels, scores, groups = data
    resampler = Resampler(groups)
    a = auroc_statistic(labels, scores, resampler)
    shifted = auroc_statistic(labels, scores * 3 + 1, resampler)
    assert paired_difference(a, shifted, resampler) == Interval(0, 0, 0)
    noise = auroc_statistic(labels, np.random.default_rng(0).normal(size=labels.size), resampler)
    gain = paired_difference(a, noise, resampler)
    draws = a(resampler.counts) - noise(resampler.counts)
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))
    assert gain.low > 0


def test_paired_difference_of_selection(data):
    labels, _, groups = data
    resampler = Resampler(groups)
    perfect = mean_statistic(best_of_n(labels, labels, groups), resampler)
    first = mean_statistic(first_answer(labels, groups), resampler)
    assert paired_difference(perfect, first, resampler).low > 0.2


def test_shuffled_labels_give_an_interval_around_one_half():
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(200), 4)
    covered = 0
    for _ in range(60):
        labels, scores = rng.integers(0, 2, 800), rng.normal(size=800)
        resampler = Resampler(groups, n_resamples=300)
        interval = clustered_interval(auroc_statistic(labels, scores, resampler), resampler)
        covered += interval.low <= 0.5 <= interval.high
    assert 51 <= covered <= 60  # 57 expected, binomial sd 1.7


def test_resamples_of_one_class_are_counted_or_refused():
    groups = np.arange(8)
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1])  # P(no valid drawn) = (5/8)^8 = 2.3%
    resampler = Resampler(groups, n_resamples=1000)
    statistic = auroc_statistic(labels, np.arange(8.0), resampler)
    valid_drawn = resampler.counts[:, 5:].sum(axis=1)
    without = (valid_drawn == 0) | (valid_drawn == 8)
    interval = clustered_interval(statistic, resampler)
    assert interval.undefined == without.sum() > 0
    assert np.isfinite([interval.low, interval.high]).all()
    lonely = auroc_statistic(labels[[0, 1, 2, 3, 4, 4, 4, 5]], np.arange(8.0), resampler)
    with pytest.raises(LabelError, match="label more problems"):
        clustered_interval(lonely, resampler)


def test_arguments_that_do_not_fit_raise(data):
    labels, scores, groups = data
    resampler = Resampler(groups, n_resamples=10)
    with pytest.raises(ParameterError, match="level"):
        clustered_interval(auroc_statistic(labels, scores, resampler), resampler, level=95)
    with pytest.raises(ParameterError, match="n_resamples"):
        Resampler(groups, n_resamples=0)
    with pytest.raises(LabelError, match="1 problem"):
        Resampler(["a", "a"])
    with pytest.raises(ScoreError, match="made for 240 traces"):
        auroc_statistic(labels[:10], scores[:10], resampler)
    with pytest.raises(LabelError, match="other problems"):
        mean_statistic(PerProblem(np.array(["a"]), np.array([1.0])), resampler)
    with pytest.raises(LabelError, match="only one class"):
        auroc_statistic(np.ones_like(labels), scores, resampler)


def test_a_thousand_resamples_of_3600_traces_do_not_take_minutes():
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(900), 4), rng.integers(0, 2, 3600)
    start = time.process_time()
    resampler = Resampler(groups)
    for statistic in (auroc_statistic, within_problem_statistic):
        clustered_interval(statistic(labels, rng.normal(size=3600), resampler), resampler)
    assert time.process_time() - start < 8  # an explicit loop takes longer; this takes under one
