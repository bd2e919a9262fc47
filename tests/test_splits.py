"""No problem on both sides, every row tested once, labels balanced, errors named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from validator.errors import LabelError, ParameterError
from validator.splits import problem_folds


@given(st.integers(0, 10_000), st.integers(2, 6), st.integers(6, 30), st.integers(1, 6))
def test_no_problem_crosses_and_each_row_is_tested_once(seed, n_splits, n_problems, per_problem):
    rng = np.random.default_rng(seed)
    ids = np.array([f"p{i}" for i in rng.integers(0, n_problems, n_problems * per_problem)])
    labels = rng.integers(0, 2, ids.size)
    try:
        folds = problem_folds(ids, labels, n_splits, seed)
    except LabelError:
        rarer = labels if labels.mean() < 0.5 else 1 - labels
        few = len(set(ids)) < n_splits or rarer.sum() < n_splits
        assert few or len(set(ids[rarer == 1])) < 2 * n_splits
        return
    assert len(folds) == n_splits
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(ids.size))
    for train, test in folds:
        assert not set(ids[train]) & set(ids[test])
        assert sorted([*train, *test]) == list(range(ids.size))
        assert set(labels[train]) == {0, 1}


@given(st.integers(0, 100))
def test_the_seed_fixes_the_folds_and_changes_them(seed):
    ids, labels = np.repeat(np.arange(50), 4), np.tile([0, 1, 1, 0], 50)
    first, second = problem_folds(ids, labels, seed=seed), problem_folds(ids, labels, seed=seed)
    other = problem_folds(ids, labels, seed=seed + 1)
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(first, second, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(first, other, strict=True))


def test_labels_are_stratified_as_far_as_problems_allow():
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(300), 4)
    labels = (rng.random(1200) < np.repeat(rng.beta(1, 3, 300), 4)).astype(int)
    shares = [labels[test].mean() for _, test in problem_folds(ids, labels)]
    assert np.ptp(shares) < 0.03
    grouped_only = [labels[ids % 5 == k].mean() for k in range(5)]
    assert np.ptp(shares) < np.ptp(grouped_only)


@pytest.mark.parametrize(
    ("ids", "labels", "n_splits", "message"),
    [
        (["a", "b", "c"], [0, 1, 1], 5, "3 problems cannot make 5 folds"),
        (list("abcdef"), [1] * 6, 3, "only one class"),
        (list("abcdef"), [1, 1, 1, 1, 1, 0], 3, "rarer class has 1 traces"),
        (list("aabbcc"), [0, 0, 1, 1, 1, 1], 2, "train on one class"),
        (["a", "b"], [0, 1, 1], 2, "problem ids"),
    ],
)
def test_what_cannot_be_split_raises(ids, labels, n_splits, message):
    with pytest.raises(LabelError, match=message):
        problem_folds(ids, labels, n_splits)


def test_one_fold_is_no_split():
    with pytest.raises(ParameterError):
        problem_folds(["a", "b"], [0, 1], 1)
