"""The number of trees against fits of every number of trees, fold by fold."""

import numpy as np
import pytest

from validator.classifier import ValidityClassifier
from validator.errors import LabelError, ParameterError
from validator.splits import problem_folds

FOLD_SEED = np.random.RandomState(0).randint(2**31 - 1)
TREES = 25


def problem(n=240, f=10, per_problem=3, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n // per_problem), per_problem)
    X = rng.normal(size=(n, f)) + rng.normal(size=(n // per_problem, f))[groups]
    y = (X[:, 0] - X[:, 1] + 2 * rng.normal(size=n) > 0).astype(int)
    X[rng.random(X.shape) < 0.05] = np.nan
    return X, y, groups, rng.integers(1, 4, n).astype(float)


def held_out_losses(X, y, groups, weights, folds=5, **options):
    """(TREES,) mean over folds of the weighted log loss of fits of 1, 2, ... trees."""
    losses = np.zeros((folds, TREES))
    for i, (train, test) in enumerate(problem_folds(groups, y, folds, FOLD_SEED)):
        for trees in range(1, TREES + 1):
            model = ValidityClassifier("xgboost", n_estimators=trees, **options)
            model.fit(X[train], y[train], sample_weight=weights[train])
            p = model.predict_proba(X[test])[np.arange(test.size), y[test]]
            losses[i, trees - 1] = np.average(-np.log(p), weights=weights[test])
    return losses.mean(axis=0)


@pytest.mark.parametrize("options", [{}, {"n_components": 4, "max_depth": 2}, {"n_features": 3}])
def test_the_trees_are_those_of_least_held_out_loss(options):
    X, y, groups, weights = problem()
    options = {"learning_rate": 0.3, **options}
    losses = held_out_losses(X, y, groups, weights, **options)
    best = 1 + int(losses.argmin())
    assert 1 < best < TREES
    model = ValidityClassifier("xgboost", n_estimators=TREES, early_stopping_rounds=TREES,
                               **options).fit(X, y, groups=groups, sample_weight=weights)
    assert model.n_iter_ == best
    same = ValidityClassifier("xgboost", n_estimators=best, **options)
    same.fit(X, y, sample_weight=weights)
    assert np.array_equal(model.decision_function(X), same.decision_function(X))


def test_patience_stops_at_the_first_minimum_that_lasts():
    X, y, groups, weights = problem()
    losses = held_out_losses(X, y, groups, weights, folds=3, learning_rate=0.5)
    counts = []
    for patience in (1, 2, 4):
        model = ValidityClassifier("xgboost", n_estimators=TREES, early_stopping_rounds=patience,
                                   calibration_folds=3, learning_rate=0.5)
        counts.append(model.fit(X, y, groups=groups, sample_weight=weights).n_iter_)
        lasting = [k for k in range(TREES)
                   if losses[k] == losses[:k + 1].min()
                   and losses[k + 1:k + 1 + patience].min() >= losses[k]]
        assert counts[-1] == 1 + lasting[0]
    assert counts[0] < counts[-1]  # the curve has a dip that a patience of one takes for the end


def test_no_more_trees_than_asked_for():
    X, y, groups, _ = problem()
    model = ValidityClassifier("xgboost", n_estimators=4, early_stopping_rounds=50,
                               learning_rate=0.05)
    assert model.fit(X, y, groups=groups).n_iter_ == 4


@pytest.mark.parametrize("grouped", [True, False])
def test_a_weight_is_copies_and_off_is_off(grouped):
    X, y, groups, weights = problem()
    copies = weights.astype(int)
    ids = groups if grouped else None
    model = ValidityClassifier("xgboost", early_stopping_rounds=10).fit(
        X, y, groups=ids, sample_weight=weights)
    copied = ValidityClassifier("xgboost", early_stopping_rounds=10).fit(
        X.repeat(copies, axis=0), y.repeat(copies), groups=groups.repeat(copies)
        if grouped else None)
    assert model.n_iter_ == copied.n_iter_ < 200
    assert np.array_equal(model.decision_function(X), copied.decision_function(X))
    assert ValidityClassifier("xgboost").fit(X, y).n_iter_ == 200
    logistic = ValidityClassifier("logistic").fit(X, y)
    ignored = ValidityClassifier("logistic", early_stopping_rounds=10).fit(X, y)
    assert np.array_equal(logistic.decision_function(X), ignored.decision_function(X))


def test_it_goes_with_calibration():
    X, y, groups, _ = problem()
    stopped = ValidityClassifier("xgboost", early_stopping_rounds=10, calibration="sigmoid")
    stopped.fit(X, y, groups=groups)
    fixed = ValidityClassifier("xgboost", n_estimators=stopped.n_iter_, calibration="sigmoid")
    fixed.fit(X, y, groups=groups)
    assert stopped.n_iter_ < 200
    assert np.array_equal(stopped.decision_function(X), fixed.decision_function(X))


def test_arguments_out_of_range_raise():
    X, y, groups, _ = problem()
    with pytest.raises(ParameterError, match="early_stopping_rounds must be None or at least 1"):
        ValidityClassifier("xgboost", early_stopping_rounds=0).fit(X, y)
    with pytest.raises(LabelError, match="calibration_folds=5: 2 problems"):
        ValidityClassifier("xgboost", early_stopping_rounds=3).fit(X, y, groups=groups % 2)
