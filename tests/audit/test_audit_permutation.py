"""Shuffles keep what they must; p-values against formulas; tests hold their level on clusters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from validator.audit.leaks import standardised
from validator.audit.permutation import (
    SCHEMES,
    blind_folds,
    bootstrap_p_value,
    holm,
    label_aurocs,
    permutation_p_value,
    shuffled_labels,
    within_aurocs,
)
from validator.errors import LabelError, ParameterError
from validator.metrics import Resampler, auroc_statistic, clustered_interval, within_problem_auroc

labelled = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 1)), min_size=1, max_size=40)


@settings(deadline=None, max_examples=50)
@given(labelled, st.sampled_from(SCHEMES))
def test_shuffles_keep_the_label_counts_of_problems(rows: list[tuple[int, int]], scheme: str
                                                    ) -> None:
    problems, y = (np.array(column) for column in zip(*rows, strict=True))

    def counts(labels: np.ndarray) -> list[tuple[int, int]]:
        return [((problems == p).sum(), labels[problems == p].sum()) for p in np.unique(problems)]

    for drawn in shuffled_labels(y, problems, 5, scheme):
        if scheme == "within":
            assert counts(drawn) == counts(y)
        assert Counter(counts(drawn)) == Counter(counts(y))  # among problems of equal size


def test_every_arrangement_is_as_likely() -> None:
    """Two problems of two traces, labels (1, 1) and (1, 0): four arrangements, a quarter each."""
    drawn = shuffled_labels([1, 1, 1, 0], ["a", "a", "b", "b"], 4000)
    shares = np.array(list(Counter(map(tuple, drawn.tolist())).values())) / 4000
    assert len(shares) == 4
    assert np.abs(shares - 0.25).max() < 0.03
    within = shuffled_labels([1, 1, 1, 0], ["a", "a", "b", "b"], 200, "within")
    assert set(map(tuple, within.tolist())) == {(1, 1, 1, 0), (1, 1, 0, 1)}


def test_shuffles_follow_the_seed_and_refuse_nonsense() -> None:
    y, p = np.arange(12) % 2, np.arange(12) // 3
    assert (shuffled_labels(y, p, 4, seed=1) == shuffled_labels(y, p, 4, seed=1)).all()
    assert (shuffled_labels(y, p, 4, seed=1) != shuffled_labels(y, p, 4, seed=2)).any()
    with pytest.raises(ParameterError, match="scheme"):
        shuffled_labels(y, p, 4, "rows")
    with pytest.raises(LabelError):
        shuffled_labels([1, 0, 2], [1, 1, 1], 2)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(5, 25), st.integers(2, 5))
def test_no_problem_is_on_both_sides_of_a_blind_fold(seed: int, problems: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.r_[np.arange(problems), np.arange(problems),
                                rng.integers(0, problems, 30)])
    folds = blind_folds(ids, k, seed)
    for train, test in folds:
        assert not set(ids[train]) & set(ids[test])
    assert sorted(np.concatenate([t for _, t in folds]).tolist()) == list(range(ids.size))


def test_p_values() -> None:
    assert permutation_p_value(3.0, [1, 2, 3, 4]) == pytest.approx(3 / 5)
    assert permutation_p_value(9.0, np.zeros(19)) == pytest.approx(1 / 20)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_equals_its_definition(p: list[float]) -> None:
    order = sorted(range(len(p)), key=lambda i: p[i])
    expected = [0.0] * len(p)
    for rank, i in enumerate(order):
        expected[i] = min(1.0, max((len(p) - r) * p[j] for r, j in enumerate(order[:rank + 1])))
    assert holm(p) == pytest.approx(expected)


def test_bootstrap_p_value_goes_with_the_interval() -> None:
    """Below 5% just where the 95% percentile interval leaves one half out."""
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.25, 0.35, 0.45, 0.55, 1.0):
        y = rng.integers(0, 2, 120)
        resampler = Resampler(np.arange(120) // 3, 1000)
        statistic = auroc_statistic(y, shift * y + rng.normal(size=120), resampler)
        interval, p = clustered_interval(statistic, resampler), bootstrap_p_value(
            statistic, resampler, 0.5)
        assert (p < 0.052) == (not interval.low <= 0.5 <= interval.high)


def test_aurocs_of_many_labellings_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    X = rng.integers(0, 9, (60, 3)).astype(float)
    labels = rng.permuted(np.tile(np.arange(60) % 3 == 0, (7, 1)), axis=1).astype(int)
    expected = [[roc_auc_score(y, X[:, k]) for k in range(3)] for y in labels]
    np.testing.assert_allclose(label_aurocs(X, labels), expected)


def test_within_aurocs_equal_the_metric_one_by_one() -> None:
    rng = np.random.default_rng(0)
    problems = np.r_[np.repeat(np.arange(8), 4), np.repeat(np.arange(8, 12), 3), 99]
    labels = rng.integers(0, 2, (6, problems.size))
    scores = rng.integers(0, 5, labels.shape).astype(float)
    expected = [within_problem_auroc(y, s, problems) for y, s in zip(labels, scores, strict=True)]
    np.testing.assert_allclose(within_aurocs(scores, labels, problems), expected)
    assert np.isnan(within_aurocs(np.zeros((1, 2)), np.array([[1, 0]]), [0, 1])).all()


def test_clustered_data_keep_the_level_where_a_shuffle_of_rows_does_not() -> None:
    """Length and label each share their problem's level, unrelated to each other."""
    ours = rows = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        problems = np.repeat(np.arange(25), 8)
        y = (rng.random(200) < 1 / (1 + np.exp(-3 * rng.normal(size=25))[problems])).astype(int)
        length = (rng.normal(size=25)[problems] + 0.3 * rng.normal(size=200))[:, None]
        for scheme, blocks in (("ours", problems), ("rows", np.arange(200))):
            labels = np.vstack([y, shuffled_labels(y, blocks, 99, seed=seed)])
            z = standardised(label_aurocs(length, labels))[:, 0]
            flagged = permutation_p_value(z[0], z[1:]) <= 0.05
            ours, rows = ours + (flagged and scheme == "ours"), rows + (flagged and
                                                                        scheme == "rows")
    assert ours <= 17  # 5% of 200 and two standard errors
    assert rows >= 60
