"""First-error localisation against enumeration, closed forms and resampling by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from validator.errors import LabelError, ScoreError
from validator.metrics import Resampler, clustered_interval
from validator.metrics.localization import (
    NO_ERROR,
    UNKNOWN,
    accuracy_statistic,
    best_threshold,
    f1_statistic,
    first_below,
    first_error,
    harmonic_mean,
    hits,
    localization_f1,
    lowest_steps,
    matched_weights,
    random_hits,
    within_trace_statistic,
)

TRACES = st.lists(
    st.lists(st.integers(-3, 3), min_size=1, max_size=5).flatmap(
        lambda s: st.tuples(st.just(s), st.integers(NO_ERROR, len(s) - 1))),
    min_size=1, max_size=8)
"""Few distinct scores, so that ties are common."""


def by_hand(scores, threshold):
    """The first step below, one step at a time."""
    for k, s in enumerate(scores):
        if s < threshold:
            return k
    return NO_ERROR


def f1_by_hand(predicted, truth):
    wrong = [p == t for p, t in zip(predicted, truth, strict=True) if t != NO_ERROR]
    fine = [p == t for p, t in zip(predicted, truth, strict=True) if t == NO_ERROR]
    if not wrong or not fine:
        return float(np.mean(wrong or fine))
    a, b = np.mean(wrong), np.mean(fine)
    return 0.0 if a + b == 0 else float(2 * a * b / (a + b))


@pytest.mark.parametrize(("labels", "expected"), [
    ((1, 1, 1), NO_ERROR), ((1, 0, None), 1), ((1, 0, 1), 1), ((0,), 0),
    ((1, None, 0), UNKNOWN), ((None, 1), UNKNOWN), ((1, None), UNKNOWN)])
def test_the_first_error_is_known_only_if_all_before_it_is_labelled(labels, expected):
    assert first_error(labels) == expected


@settings(max_examples=50, deadline=None)
@given(TRACES, st.integers(-4, 4))
def test_predictions_step_by_step(traces, threshold):
    scores = [s for s, _ in traces]
    assert first_below(scores, threshold).tolist() == [by_hand(s, threshold) for s in scores]
    assert lowest_steps(scores).tolist() == [s.index(min(s)) for s in scores]


def test_each_trace_may_have_a_threshold_of_its_own():
    assert first_below([[1, 0], [1, 0]], [0.5, -1]).tolist() == [1, NO_ERROR]


@settings(max_examples=50, deadline=None)
@given(TRACES)
def test_no_threshold_beats_the_best_one(traces):
    """Half steps and the two ends are all thresholds that can differ for whole scores."""
    scores, truth = [s for s, _ in traces], [t for _, t in traces]
    reached = f1_by_hand(first_below(scores, best_threshold(scores, truth)).tolist(), truth)
    everywhere = [f1_by_hand([by_hand(s, cut) for s in scores], truth)
                  for cut in np.arange(-4, 4.5, 0.5)]
    assert reached == pytest.approx(max(everywhere))


def test_the_best_threshold_lies_half_way_and_reads_nothing_after_the_error():
    scores = [[2.0, -1.0, np.nan], [3.0, 1.0]]
    assert best_threshold(scores, [1, NO_ERROR]) == 0.0
    assert best_threshold([[1.0], [2.0]], [0, 0]) == np.inf
    assert best_threshold([[1.0], [2.0]], [NO_ERROR, NO_ERROR]) == 1.0
    with pytest.raises(ScoreError, match="one score for each of its steps"):
        best_threshold([[np.nan, -1.0]], [1])


@settings(max_examples=50, deadline=None)
@given(TRACES, st.integers(0, 2))
def test_hits_and_f1_trace_by_trace(traces, tolerance):
    truth = [t for _, t in traces]
    predicted = [by_hand(s, 0) for s, _ in traces]
    expected = [p == t or (min(p, t) >= 0 and abs(p - t) <= tolerance)
                for p, t in zip(predicted, truth, strict=True)]
    assert hits(predicted, truth, tolerance).tolist() == expected
    if {t == NO_ERROR for t in truth} == {True, False}:
        assert localization_f1(predicted, truth) == pytest.approx(f1_by_hand(predicted, truth))
    else:
        with pytest.raises(LabelError, match="F1 needs"):
            localization_f1(predicted, truth)


@settings(max_examples=50, deadline=None)
@given(TRACES, st.integers(0, 2), st.booleans())
def test_random_guessing_is_the_mean_over_every_guess(traces, tolerance, with_none):
    sizes, truth = [len(s) for s, _ in traces], [t for _, t in traces]
    expected = []
    for n, t in zip(sizes, truth, strict=True):
        guesses = list(range(n)) + [NO_ERROR] * with_none
        expected.append(np.mean([hits([g], [t], tolerance)[0] for g in guesses]))
    found = random_hits(sizes, truth, tolerance, with_none=with_none)
    assert found == pytest.approx(np.array(expected))


def test_harmonic_mean_is_scipys_and_zero_at_zero():
    from scipy.stats import hmean

    a, b = np.array([0.2, 1.0, 0.5]), np.array([0.3, 0.1, 0.5])
    np.testing.assert_allclose(harmonic_mean(a, b), hmean([a, b], axis=0))
    assert harmonic_mean(0.0, 0.0) == 0.0


def drawn(problems, counts, resampler):
    """The rows of a resample, repeated."""
    times = dict(zip(resampler.problems, counts, strict=True))
    return np.concatenate([[i] * times[p] for i, p in enumerate(problems)]).astype(int)


def test_statistics_are_those_of_the_drawn_problems_traces():
    rng = np.random.default_rng(0)
    problems = np.array([f"p{i // 3}" for i in range(60)])
    truth = rng.integers(NO_ERROR, 4, 60)
    predicted = rng.integers(NO_ERROR, 4, 60)
    weights = rng.random(60)
    resampler = Resampler(problems, n_resamples=20, seed=1)
    right = hits(predicted, truth)
    accuracy = accuracy_statistic(right, problems, resampler, weights)(resampler.counts)
    f1 = f1_statistic(right, truth, problems, resampler)(resampler.counts)
    for b, counts in enumerate(resampler.counts):
        rows = drawn(problems, counts, resampler)
        assert accuracy[b] == pytest.approx(np.average(right[rows], weights=weights[rows]))
        assert f1[b] == pytest.approx(f1_by_hand(predicted[rows], truth[rows]))
    interval = clustered_interval(f1_statistic(right, truth, problems, resampler), resampler)
    assert interval.estimate == pytest.approx(localization_f1(predicted, truth))


def test_a_resample_without_a_kind_of_trace_has_no_f1():
    problems, truth = ["a", "b"], [1, NO_ERROR]
    resampler = Resampler(problems, n_resamples=1)
    values = f1_statistic([1.0, 1.0], truth, problems, resampler)(np.array([[2, 0], [1, 1]]))
    assert np.isnan(values[0])
    assert values[1] == 1.0


def test_matched_weights_give_both_kinds_the_same_lengths():
    rng = np.random.default_rng(0)
    truth = rng.integers(NO_ERROR, 2, 400)
    lengths = rng.integers(10, 60, 400) + 30 * (truth >= 0)
    weights = matched_weights(lengths, truth, bins=8)
    from validator.metrics.ranking import length_bins

    bins = length_bins(lengths, 400, 8)
    for b in np.unique(bins):
        wrong, fine = (weights[(bins == b) & kind] for kind in (truth >= 0, truth == NO_ERROR))
        assert wrong.sum() == pytest.approx(fine.sum())
        assert wrong.sum() == pytest.approx(min(wrong.size, fine.size))
    assert 0 < weights.max() <= 1
    gap = [np.average(lengths[k], weights=weights[k]) for k in (truth >= 0, truth == NO_ERROR)]
    plain = [lengths[k].mean() for k in (truth >= 0, truth == NO_ERROR)]
    assert abs(gap[0] - gap[1]) < 0.2 * (plain[0] - plain[1])
    with pytest.raises(LabelError, match="no length bin"):
        matched_weights([1, 2, 30, 40], [0, 0, NO_ERROR, NO_ERROR], bins=2)


def test_within_trace_auroc_is_the_mean_over_mixed_traces_of_the_drawn_problems():
    rng = np.random.default_rng(2)
    traces = np.array([f"t{i // 5}" for i in range(200)])
    problems = np.array([f"p{i // 10}" for i in range(200)])
    labels = rng.integers(0, 2, 200)
    labels[:10] = 1  # a problem that no draw of it helps
    scores = rng.normal(size=200).round(1)
    resampler = Resampler(problems, n_resamples=10, seed=0)
    values = within_trace_statistic(labels, scores, traces, resampler)(resampler.counts)
    mixed = [own for own in (traces == t for t in np.unique(traces)) if np.ptp(labels[own])]
    inside = [roc_auc_score(labels[own], scores[own]) for own in mixed]
    assert 0 < len(mixed) < 40
    for b, counts in enumerate(resampler.counts):
        times = dict(zip(resampler.problems, counts, strict=True))
        drawn_traces = [times[problems[own][0]] for own in mixed]
        assert values[b] == pytest.approx(np.average(inside, weights=drawn_traces))
    with pytest.raises(LabelError):
        within_trace_statistic(np.ones(200, int), scores, traces, resampler)


def test_traces_that_cannot_be_judged_are_typed_errors():
    with pytest.raises(LabelError, match="not known; leave them out"):
        hits([0], [UNKNOWN])
    with pytest.raises(LabelError, match="expected the first error of 2 traces"):
        hits([0, 1], [0])
    with pytest.raises(LabelError, match="without steps"):
        first_error([])
    with pytest.raises(ScoreError, match="no NaN"):
        lowest_steps([[0.0, np.nan]])
    resampler = Resampler(["a", "b"], n_resamples=2)
    with pytest.raises(LabelError, match="not resampled"):
        accuracy_statistic([1.0], ["c"], resampler)
