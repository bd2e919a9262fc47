"""Contributions against Shapley's own formula, over all subsets, on small problems."""

import itertools
import json
from math import factorial

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from validator.classifier import FeatureImportance, ValidityClassifier, shap_values, top_features
from validator.errors import FeatureMismatchError, ParameterError


def problem(n=120, f=4, gaps=0.0, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, f)) * 10.0 ** rng.integers(-3, 3, f) + 3
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    y = (Z[:, 0] - 2 * Z[:, 1] + Z[:, 0] * Z[:, 2] + rng.normal(size=n) > 0).astype(int)
    X[rng.random(X.shape) < gaps] = np.nan
    return X, y


def shapley(value, f):
    """(f,) Shapley values of ``value``, a function of a set of players (Shapley 1953)."""
    result = np.zeros(f)
    for i in range(f):
        others = [j for j in range(f) if j != i]
        for size in range(f):
            weight = factorial(size) * factorial(f - size - 1) / factorial(f)
            for chosen in itertools.combinations(others, size):
                result[i] += weight * (value({*chosen, i}) - value({*chosen}))
    return result


def expected(node, row, known):
    """A tree's value given the ``known`` features of a row: unknown splits by training cover."""
    if "leaf" in node:
        return node["leaf"]
    below = {child["nodeid"]: child for child in node["children"]}
    feature = int(node["split"][1:])
    if feature in known:
        low = row[feature] < np.float32(node["split_condition"])
        branch = "missing" if np.isnan(row[feature]) else "yes" if low else "no"
        return expected(below[node[branch]], row, known)
    return sum(child["cover"] * expected(child, row, known) for child in below.values()) / sum(
        child["cover"] for child in below.values())


def test_trees_have_the_shapley_values_of_their_cover_weighted_expectation():
    X, y = problem(gaps=0.1)
    model = ValidityClassifier("xgboost", n_estimators=6, max_depth=3).fit(X, y)
    trees = [json.loads(t) for t in
             model.head_.booster.get_dump(dump_format="json", with_stats=True)]
    values, bias = shap_values(model, X)
    for row, found in zip(X[:12].astype(np.float32), values, strict=False):
        brute = shapley(lambda known, row=row: sum(expected(t, row, known) for t in trees), 4)
        assert found == pytest.approx(brute, abs=1e-5)
    prior = np.log(y.mean() / (1 - y.mean()))
    assert bias == pytest.approx(prior + sum(expected(t, X[0], set()) for t in trees), abs=1e-5)


@pytest.mark.parametrize("n_components", [None, 3])
def test_the_linear_head_has_the_shapley_values_of_independent_features(n_components):
    X, y = problem(gaps=0.1)
    X[:, 3] = np.where(np.isnan(X[:, 3]), 3.0, X[:, 3])  # one feature without an indicator
    model = ValidityClassifier(n_components=n_components).fit(X, y)
    design = model.design_
    owner = np.r_[np.arange(4), design.gaps]
    Z = np.column_stack([np.where(np.isnan(X), design.median, X), np.isnan(X)[:, design.gaps]])
    mean = Z.mean(axis=0)

    def margin(columns):
        z = (columns - design.center) / design.scale
        z = z if design.components is None else design.components @ z
        return z @ model.head_.coef + model.head_.intercept

    values, bias = shap_values(model, X)
    for i in range(10):
        brute = shapley(
            lambda known, z=Z[i]: margin(np.where(np.isin(owner, [*known]), z, mean)), 4)
        assert values[i] == pytest.approx(brute, abs=1e-9)
    assert bias == pytest.approx(margin(mean))


@pytest.mark.parametrize("options", [
    {"kind": "logistic"}, {"kind": "logistic", "n_components": 5},
    {"kind": "logistic", "n_features": 7, "n_components": 3}, {"kind": "xgboost"},
    {"kind": "xgboost", "n_features": 7, "early_stopping_rounds": 5},
])
@pytest.mark.parametrize("calibration", [None, "sigmoid", "isotonic"])
def test_contributions_add_up_to_the_uncalibrated_margin(options, calibration):
    X, y = problem(300, 30, gaps=0.03)
    model = ValidityClassifier(calibration=calibration, **options).fit(X, y)
    values, bias = shap_values(model, X)
    assert values.shape == X.shape
    assert values.sum(axis=1) + bias == pytest.approx(model.margin(X), abs=1e-5)
    if model.columns_ is not None:
        unused = np.setdiff1d(np.arange(30), model.columns_)
        assert (values[:, unused] == 0).all()
        assert (values[:, model.columns_] != 0).any()
    plain = ValidityClassifier(**options).fit(X, y)
    assert np.array_equal(values, shap_values(plain, X)[0])


def test_the_margin_of_named_columns_wants_those_columns():
    pandas = pytest.importorskip("pandas")
    X, y = problem()
    frame = pandas.DataFrame(X, columns=list("abcd"))
    model = ValidityClassifier().fit(frame, y)
    assert np.array_equal(shap_values(model, frame)[0], shap_values(
        ValidityClassifier().fit(X, y), X)[0])
    with pytest.raises(ValueError, match="feature names should match"):
        shap_values(model, frame[list("dcba")])


@pytest.mark.parametrize("kind", ["logistic", "xgboost"])
def test_top_features_rank_by_size_and_say_which_way(kind):
    X, y = problem(400, 6, gaps=0.02)
    model = ValidityClassifier(kind).fit(X, y)
    top = top_features(model, X, list("abcdef"), k=3)
    values = shap_values(model, X)[0]
    order = np.argsort(-np.abs(values).mean(axis=0))[:3]
    assert [item.name for item in top] == [list("abcdef")[i] for i in order]
    for item, i in zip(top, order, strict=True):
        seen = ~np.isnan(X[:, i])
        assert item.mean_abs == pytest.approx(np.abs(values[:, i]).mean())
        assert item.direction == pytest.approx(np.corrcoef(X[seen, i], values[seen, i])[0, 1])
        assert -1 <= item.direction <= 1
    directions = {item.name: item.direction for item in top}
    assert directions["a"] > 0.5
    assert directions["b"] < -0.5
    if kind == "logistic":
        assert [abs(item.direction) for item in top] == pytest.approx([1.0] * 3)


def test_features_that_say_nothing_come_last_in_column_order_without_direction():
    X, y = problem()
    X = np.column_stack([np.ones(120), X, np.full(120, np.nan)])
    top = top_features(ValidityClassifier("xgboost").fit(X, y), X, list("abcdef"), k=99)
    assert len(top) == 6
    assert top[-2:] == [FeatureImportance("a", 0.0, 0.0), FeatureImportance("f", 0.0, 0.0)]


def test_what_has_no_exact_contributions_raises():
    X, y = problem()
    for options in ({"kind": "mlp"}, {"kind": "xgboost", "n_components": 2}):
        with pytest.raises(ParameterError, match="no exact contributions"):
            shap_values(ValidityClassifier(**options).fit(X, y), X)
    model = ValidityClassifier().fit(X, y)
    with pytest.raises(FeatureMismatchError, match="expected 4 feature names"):
        top_features(model, X, ["a"])
    with pytest.raises(ParameterError, match="k must be at least 1"):
        top_features(model, X, list("abcd"), k=0)
    with pytest.raises(ValueError, match="3 features"):
        shap_values(model, X[:, :3])
    with pytest.raises(NotFittedError):
        shap_values(ValidityClassifier(), X)
