"""Univariate selection against scikit-learn's AUROC, one column at a time."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import validator.classifier.selection as selection_module
from validator.classifier import ValidityClassifier
from validator.classifier.selection import auroc_distances, select_columns
from validator.errors import ParameterError
from validator.metrics import auroc
from validator.splits import problem_folds


def problem(n=150, f=60, gaps=0.1, seed=0):
    """Columns of every coarseness, some of them informative, some full of gaps."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    X = rng.normal(size=(n, f)) + np.outer(y, rng.normal(size=f) * (np.arange(f) % 3 == 0))
    X[:, ::2] = X[:, ::2].round(1)
    X[:, 1::5] = np.sign(X[:, 1::5])
    X[rng.random(X.shape) < gaps] = np.nan
    return X, y, rng.integers(1, 5, n).astype(float)


@pytest.mark.parametrize("block", [1, 400, 2_000_000])
def test_distances_are_those_of_scikit_learns_auroc(block, monkeypatch):
    monkeypatch.setattr(selection_module, "BLOCK", block)
    X, y, weights = problem()
    for w in (np.ones(150), weights, weights / 7):
        seen = [~np.isnan(column) for column in X.T]
        expected = [abs(roc_auc_score(y[s], X[s, i], sample_weight=w[s]) - 0.5)
                    for i, s in enumerate(seen)]
        assert auroc_distances(X, y.astype(float), w) == pytest.approx(expected, abs=1e-12)
    assert expected[0] == pytest.approx(abs(auroc(y[seen[0]], X[seen[0], 0], w[seen[0]]) - 0.5))


def test_a_weight_is_copies_exactly():
    X, y, weights = problem()
    weighted = auroc_distances(X, y.astype(float), weights)
    copies = weights.astype(int)
    copied = auroc_distances(X.repeat(copies, axis=0), y.repeat(copies).astype(float),
                             np.ones(copies.sum()))
    assert np.array_equal(weighted, copied)


def test_columns_that_tell_nothing_have_no_distance():
    y = np.tile([0.0, 1.0], 20)
    one_class, never, constant = (np.where(y == 1, np.arange(40.0), np.nan), np.full(40, np.nan),
                                  np.ones(40))
    X = np.column_stack([one_class, never, constant])
    assert auroc_distances(X, y, np.ones(40)).tolist() == [0, 0, 0]
    assert select_columns(X, y, np.ones(40), 2).tolist() == [0, 1]


def test_the_largest_are_kept_and_ties_go_to_the_earlier_column():
    X, y, weights = problem(gaps=0.0)
    X = np.hstack([X, -X, 2 * X + 1])  # a column, its negative and its double tie exactly
    distance = auroc_distances(X, y.astype(float), weights)
    assert np.array_equal(distance[:60], distance[60:120])
    assert np.array_equal(distance[:60], distance[120:])
    best = sorted(range(180), key=lambda i: (-distance[i], i))
    for k in (1, 2, 4, 25, 180):
        assert select_columns(X, y.astype(float), weights, k).tolist() == sorted(best[:k])


@pytest.mark.parametrize("kind", ["logistic", "xgboost", "mlp"])
@pytest.mark.parametrize("n_components", [None, 3])
def test_the_rest_of_the_fit_sees_the_kept_columns_alone(kind, n_components):
    X, y, _ = problem()
    model = ValidityClassifier(kind, n_features=8, n_components=n_components).fit(X, y)
    kept = select_columns(X, y.astype(float), np.ones(150), 8)
    assert model.columns_.tolist() == kept.tolist()
    alone = ValidityClassifier(kind, n_components=n_components).fit(X.take(kept, axis=1), y)
    assert alone.columns_ is None
    assert np.array_equal(model.decision_function(X), alone.decision_function(X.take(kept, 1)))
    other = X.copy()
    other[:, np.setdiff1d(np.arange(60), kept)] = np.nan
    assert np.array_equal(model.decision_function(other), model.decision_function(X))


def test_all_columns_selected_is_no_selection():
    X, y, _ = problem()
    every = ValidityClassifier(n_features=60).fit(X, y)
    plain = ValidityClassifier().fit(X, y)
    assert np.array_equal(every.decision_function(X), plain.decision_function(X))


def test_selection_happens_inside_the_calibrations_folds():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 3000)), np.tile([0, 1], 50)
    # chosen on all rows, 20 of 3,000 columns of noise would rank held-out rows well; chosen inside
    # the folds they do not, and the slope the calibrator finds is small
    inside = ValidityClassifier(calibration="sigmoid", n_features=20, C=0.5, random_state=1)
    inside.fit(X, y)
    outside = ValidityClassifier(calibration="sigmoid", C=0.5, random_state=1)
    outside.fit(X[:, inside.columns_], y)
    assert inside.calibrator_.slope < 0.3 * outside.calibrator_.slope


def test_selection_costs_no_signal_where_most_columns_are_noise():
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(100), 3)
    X = rng.normal(size=(300, 2000))
    y = (X[:, :3].sum(axis=1) + rng.normal(size=300) > 0).astype(int)
    scores = {k: np.empty(300) for k in (None, 10)}
    for train, test in problem_folds(ids, y):
        for k, values in scores.items():
            model = ValidityClassifier(n_features=k).fit(X[train], y[train], groups=ids[train])
            values[test] = model.decision_function(X[test])
    assert auroc(y, scores[10]) > auroc(y, scores[None]) + 0.1


def test_numbers_of_columns_out_of_range_raise():
    X, y, _ = problem()
    for k in (0, -1, 61):
        with pytest.raises(ParameterError, match=rf"n_features must lie in \[1, 60\].*got {k}"):
            ValidityClassifier(n_features=k).fit(X, y)
