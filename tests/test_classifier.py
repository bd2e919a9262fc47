"""ValidityClassifier against independent fits, and what it promises of seeds, weights and gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from validator.classifier import ValidityClassifier
from validator.errors import LabelError, ParameterError
from validator.metrics import auroc
from validator.splits import problem_folds

KINDS = ["logistic", "xgboost", "mlp"]


def problem(n=120, f=300, gaps=0.0, seed=0):
    """n rows, f correlated columns, labels that follow some of them, a share of gaps."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 5))
    X = factors @ rng.normal(size=(5, f)) + 2 * rng.normal(size=(n, f)) + 3
    y = (factors[:, 0] + factors[:, 1] + rng.normal(size=n) > 0).astype(int)
    X[rng.random(X.shape) < gaps] = np.nan
    return X, y


@pytest.mark.parametrize("shape", [(80, 400), (400, 80), (90, 90), (91, 90), (90, 91)])
@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0])
def test_logistic_is_sklearns_on_the_full_matrix(shape, C):
    X, y = problem(*shape)
    ours = ValidityClassifier("logistic", C=C).fit(X, y)
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    theirs = make_pipeline(StandardScaler(), model).fit(X, y)
    assert ours.head_.coef == pytest.approx(model.coef_[0], abs=1e-9)
    assert ours.head_.intercept == pytest.approx(model.intercept_[0], abs=1e-9)
    assert ours.decision_function(X) == pytest.approx(theirs.decision_function(X), abs=1e-8)


def test_the_logistic_gradient_vanishes_when_separable_and_nearly_unpenalised():
    X, y = problem(60, 500)
    ours = ValidityClassifier("logistic", C=1e4).fit(X, y)
    Z, head = ours.design_.transform(X), ours.head_
    residual = 1e4 * (1 / (1 + np.exp(-head.margin(Z))) - y)
    assert np.abs(Z.T @ residual + head.coef).max() < 1e-6
    assert abs(residual.sum()) < 1e-6


def test_the_default_penalty_keeps_the_prior_logit_variance():
    X, y = problem(60, 50)
    default = ValidityClassifier().fit(X, y).decision_function(X)
    assert np.array_equal(default, ValidityClassifier(C=10 / 50).fit(X, y).decision_function(X))


def test_gaps_become_medians_and_indicators():
    X, y = problem(200, 30, gaps=0.1)
    X[:, 3] = 1.0  # constant
    X[:, 4] = np.nan  # never observed
    ours = ValidityClassifier(C=0.1).fit(X, y)
    imputer = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    theirs = make_pipeline(imputer, StandardScaler(),
                           LogisticRegression(C=0.1, solver="newton-cholesky", tol=1e-12))
    assert ours.decision_function(X) == pytest.approx(theirs.fit(X, y).decision_function(X))
    new = X[:5].copy()
    new[:, 3] = np.nan  # a gap where training had none: the median, and no indicator
    assert np.array_equal(ours.decision_function(new), ours.decision_function(X[:5]))


def test_xgboost_sends_gaps_their_own_way():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(200, 3)), np.tile([0, 1], 100)
    X[y == 1, 1] = np.nan  # being undefined is all there is to know
    ours = ValidityClassifier("xgboost", colsample_bytree=1.0).fit(X, y)
    assert ours.design_ is None
    assert (ours.predict(X) == y).all()


def test_mlp_forward_pass_is_the_trained_networks():
    X, y = problem(80, 20)
    ours = ValidityClassifier("mlp", alpha=0.7, hidden_layer_sizes=(6, 4), random_state=3)
    ours.fit(X, y)
    Z = ours.design_.transform(X)
    assert pytest.approx(StandardScaler().fit_transform(X)) == Z
    seed = np.random.RandomState(3).randint(2**31 - 1)
    network = MLPClassifier((6, 4), activation="tanh", solver="lbfgs", alpha=0.7, max_iter=1000,
                            tol=1e-6, random_state=seed).fit(Z, y)
    assert ours.predict_proba(X) == pytest.approx(network.predict_proba(Z), abs=1e-12)


def test_components_are_principal_components():
    for shape in ((60, 200), (200, 30)):
        X, y = problem(*shape)
        ours = ValidityClassifier(n_components=7).fit(X, y)
        theirs = PCA(7, svd_solver="full").fit(StandardScaler().fit_transform(X))
        overlap = np.abs(ours.design_.components @ theirs.components_.T)
        assert overlap == pytest.approx(np.eye(7), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_it_finds_signal_on_unseen_problems_and_none_in_shuffled_labels(kind):
    X, y = problem(400, 40)
    ids = np.repeat(np.arange(100), 4)
    shuffled = np.random.default_rng(1).permutation(y)
    for labels, low, high in ((y, 0.75, 1.0), (shuffled, 0.40, 0.60)):
        scores = np.empty(400)
        for train, test in problem_folds(ids, labels):
            fitted = ValidityClassifier(kind).fit(X[train], labels[train], groups=ids[train])
            scores[test] = fitted.decision_function(X[test])
        assert low < auroc(labels, scores) < high
    assert fitted.n_groups_ == len(set(ids[train]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_components", [None, 4])
def test_a_weight_is_copies_and_zero_is_absence(kind, n_components):
    X, y = problem(60, 8, gaps=0.05)
    weights = np.random.default_rng(2).integers(0, 4, 60)
    model = ValidityClassifier(kind, n_components=n_components)
    weighted = clone(model).fit(X, y, sample_weight=weights)
    copied = clone(model).fit(X.repeat(weights, axis=0), y.repeat(weights))
    # trees compute in float32; the network stops near its minimum, not at it
    tolerance = {"logistic": 1e-8, "xgboost": 1e-5, "mlp": 2e-3}[kind]
    assert weighted.predict_proba(X) == pytest.approx(copied.predict_proba(X), abs=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_balanced_classes_shift_the_odds_to_even(kind):
    X, y = problem(300, 10)
    rare = np.flatnonzero((y == 0) | (np.arange(300) % 6 == 0))
    X, y = X[rare], y[rare]
    plain = ValidityClassifier(kind).fit(X, y).predict_proba(X)[:, 1]
    balanced = ValidityClassifier(kind, class_weight="balanced").fit(X, y).predict_proba(X)[:, 1]
    assert balanced.mean() > plain.mean() + 0.02
    counts = np.bincount(y)
    spelled = {label: y.size / (2 * counts[label]) for label in (0, 1)}
    same = ValidityClassifier(kind, class_weight=spelled).fit(X, y).predict_proba(X)[:, 1]
    assert same == pytest.approx(balanced)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_fixes_every_bit(kind):
    X, y = problem(100, 30, gaps=0.02)
    options = {"subsample": 0.7} if kind == "xgboost" else {}
    first, second, other = (
        ValidityClassifier(kind, random_state=seed, **options).fit(X, y).decision_function(X)
        for seed in (4, 4, 5)
    )
    assert np.array_equal(first, second)
    assert np.array_equal(first, other) == (kind == "logistic")  # the only convex one


def test_trees_do_not_depend_on_threads_or_row_order():
    X, y = problem(150, 30)
    one = ValidityClassifier("xgboost", n_jobs=1).fit(X, y).decision_function(X)
    two = ValidityClassifier("xgboost", n_jobs=2).fit(X, y).decision_function(X)
    back = ValidityClassifier("xgboost").fit(X[::-1], y[::-1]).decision_function(X)
    assert np.array_equal(one, two)
    assert np.array_equal(one, back)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-50, 50))
def test_units_of_a_feature_do_not_matter(seed, scale, shift):
    X, y = problem(40, 6, seed=seed)
    fitted = ValidityClassifier(C=0.1).fit(X, y)
    moved = ValidityClassifier(C=0.1).fit(X * scale + shift, y)
    expected = fitted.decision_function(X)
    assert moved.decision_function(X * scale + shift) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_the_logistic_of_the_margin(kind):
    X, y = problem(60, 10)
    fitted = ValidityClassifier(kind).fit(X, np.where(y == 1, "valid", "invalid"))
    assert list(fitted.classes_) == ["invalid", "valid"]
    p, margin = fitted.predict_proba(X), fitted.decision_function(X)
    assert p.sum(axis=1) == pytest.approx(np.ones(60))
    assert np.log(p[:, 1] / p[:, 0]) == pytest.approx(margin)
    assert ((p[:, 1] > 0.5) == (fitted.predict(X) == "valid")).all()


def test_huge_margins_neither_overflow_nor_leave_zero_to_one():
    X, y = problem(60, 10)
    p = ValidityClassifier(C=1.0).fit(X, y).predict_proba(X * 1e6)
    assert np.isfinite(p).all()
    assert p.min() >= 0
    assert p.max() <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "svm"}, "kind must be one of"),
        ({"C": 0.0}, "C must be positive"),
        ({"kind": "mlp", "alpha": -1.0}, "alpha must not be negative"),
        ({"kind": "xgboost", "n_jobs": 0}, "n_jobs"),
        ({"n_components": 0}, "n_components must lie in"),
        ({"n_components": 11}, r"\[1, 10\]"),
        ({"class_weight": "even"}, "class_weight"),
        ({"class_weight": {0: -1.0}}, "class weights must be positive"),
    ],
)
def test_hyperparameters_out_of_range_raise_at_fit(arguments, message):
    X, y = problem(60, 10)
    with pytest.raises(ParameterError, match=message):
        ValidityClassifier(**arguments).fit(X, y)


def test_labels_and_weights_that_cannot_train_raise():
    X, y = problem(60, 10)
    with pytest.raises(LabelError, match="one class"):
        ValidityClassifier().fit(X, np.ones(60))
    with pytest.raises(LabelError, match="one class"):
        ValidityClassifier().fit(X, y, sample_weight=y)
    with pytest.raises(LabelError, match="Only binary"):
        ValidityClassifier().fit(X, np.arange(60) % 3)
    with pytest.raises(LabelError, match="problem ids"):
        ValidityClassifier().fit(X, y, groups=["a"])
    with pytest.raises(ParameterError, match="sample_weight"):
        ValidityClassifier().fit(X, y, sample_weight=-np.ones(60))
    with pytest.raises(ValueError, match="infinity"):
        ValidityClassifier().fit(np.where(X > 3, np.inf, X), y)


def test_a_fit_that_did_not_converge_warns():
    X, y = problem(60, 100)
    with pytest.warns(ConvergenceWarning, match="did not converge in 1 steps"):
        ValidityClassifier(max_iter=1).fit(X, y)


@pytest.mark.parametrize("n", [10, 960, 5000])
def test_a_constant_column_says_nothing_however_many_rows(n):
    """The weighted mean of a constant is off by a few roundings, which must not become a scale."""
    rng = np.random.default_rng(n)
    X = np.column_stack([rng.normal(size=n), np.full(n, 0.1 + 1 / 3)])
    y = (X[:, 0] + rng.normal(size=n) > 0).astype(int)
    model = ValidityClassifier("logistic").fit(X, y)
    moved = X[:3] + np.array([0, 1e-3])
    np.testing.assert_allclose(
        model.decision_function(moved), model.decision_function(X[:3]), atol=1e-12)
    assert model.design_.scale[1] == 1
