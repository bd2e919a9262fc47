"""Calibrators against scikit-learn, SciPy and closed forms; folds that copies do not move."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from validator.classifier import ValidityClassifier
from validator.classifier.calibration import fit_isotonic, fit_sigmoid
from validator.classifier.crossfit import inner_folds
from validator.errors import CalibrationWarning, LabelError, ParameterError
from validator.metrics import auroc, brier, ece
from validator.splits import problem_folds

METHODS = ["sigmoid", "isotonic"]
FOLD_SEED = np.random.RandomState(0).randint(2**31 - 1)


def problem(n=200, f=12, per_problem=4, seed=0):
    """n rows of n / per_problem problems, labels that follow the problem and two features."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n // per_problem), per_problem)
    X = rng.normal(size=(n, f)) + rng.normal(size=(n // per_problem, f))[groups]
    y = (X[:, 0] + X[:, 1] + 2 * rng.normal(size=n) > 0).astype(int)
    return X, y, groups


def scored(n=80, seed=0, values=None):
    """Margins that rank, labels, integer weights."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(size=n) if values is None else rng.choice(values, n)
    y = (margins + rng.normal(size=n) > 0.3).astype(float)
    return margins, y, rng.integers(1, 5, n).astype(float)


def sigmoid_loss(parameters, margins, y, weights):
    """Platt's objective, written as he states it."""
    valid, invalid = weights[y == 1].sum(), weights[y == 0].sum()
    target = np.where(y == 1, (valid + 1) / (valid + 2), 1 / (invalid + 2))
    f = parameters[0] + parameters[1] * margins
    return np.sum(weights * (target * np.logaddexp(0, -f) + (1 - target) * np.logaddexp(0, f)))


def test_the_sigmoid_is_the_minimum_of_platts_objective():
    for seed, unit in ((0, 1.0), (1, 1e-6), (2, 1e6)):
        margins, y, weights = scored(seed=seed)
        ours = fit_sigmoid(margins * unit, y, weights)
        theirs = minimize(sigmoid_loss, (0.0, 1.0), (margins, y, weights), tol=1e-12)
        expected = theirs.x / (1, unit)
        assert (ours.intercept, ours.slope) == pytest.approx(tuple(expected), rel=1e-4)
        slack = sigmoid_loss((ours.intercept, ours.slope * unit), margins, y, weights) - theirs.fun
        assert slack < 1e-9


def test_the_sigmoid_of_two_margins_has_a_closed_form():
    margins, y = np.repeat([-1.0, 1.0], 10), np.tile([0.0] * 3 + [1.0] * 7, 2)
    y[:10] = 1 - y[:10]  # 3 of 10 valid below, 7 of 10 above; 10 of 20 in all
    high, low = 11 / 12, 1 / 12
    odds = [np.log(p / (1 - p)) for p in (0.3 * high + 0.7 * low, 0.7 * high + 0.3 * low)]
    fitted = fit_sigmoid(margins, y, np.ones(20))
    assert fitted.log_odds(np.array([-1.0, 1.0])) == pytest.approx(odds)


def test_separable_margins_stay_finite():
    margins, y = np.linspace(-1, 1, 40), np.repeat([0.0, 1.0], 20)
    for fit in (fit_sigmoid, fit_isotonic):
        odds = fit(margins, y, np.ones(40)).log_odds(margins)
        assert np.isfinite(odds).all()
        assert (odds[20:] > 0).all()
        assert (odds[:20] < 0).all()
    assert np.abs(odds).max() == pytest.approx(np.log(41))  # 1 / (n + 2) and (n + 1) / (n + 2)


def test_isotonic_is_the_min_max_of_means():
    margins, y, weights = scored(40, values=np.arange(15) / 7)
    levels, n = np.unique(margins), weights.sum()

    def mean(a, b):
        inside = (margins >= a) & (margins <= b)
        return np.average(y[inside], weights=weights[inside])

    p = [max(min(mean(a, b) for b in levels if b >= m) for a in levels if a <= m) for m in levels]
    p = np.clip(p, 1 / (n + 2), (n + 1) / (n + 2))
    fitted = fit_isotonic(margins, y, weights)
    assert fitted.log_odds(levels) == pytest.approx(np.log(p / (1 - p)))
    between = (levels[:-1] + levels[1:]) / 2
    halfway = 1 / (1 + np.exp(-fitted.log_odds(between)))
    assert halfway == pytest.approx((p[:-1] + p[1:]) / 2)
    outside = fitted.log_odds(np.array([-1e9, 1e9]))
    assert np.array_equal(outside, fitted.log_odds(levels[[0, -1]]))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([fit_sigmoid, fit_isotonic]))
def test_no_calibrator_turns_a_ranking_round(seed, fit):
    rng = np.random.default_rng(seed)
    margins = rng.normal(size=30).round(1)
    y = np.r_[0.0, 1.0, rng.integers(0, 2, 28)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        fitted = fit(margins, y, rng.integers(1, 4, 30).astype(float))
    assert (np.diff(fitted.log_odds(np.sort(rng.normal(size=50) * 2))) >= 0).all()


@pytest.mark.parametrize("fit", [fit_sigmoid, fit_isotonic])
def test_a_ranking_that_is_the_wrong_way_round_becomes_level_and_warns(fit):
    margins, y = np.arange(20.0), np.repeat([1.0, 0.0], [12, 8])
    with pytest.warns(CalibrationWarning, match="no higher than invalid"):
        odds = fit(margins, y, np.ones(20)).log_odds(margins)
    smoothed = (12 * 13 / 14 + 8 * 1 / 10) / 20
    share = smoothed if fit is fit_sigmoid else 12 / 20
    assert odds == pytest.approx(np.full(20, np.log(share / (1 - share))))


def test_margins_that_do_not_vary_become_level_and_warn():
    y = np.repeat([1.0, 0.0], [12, 8])
    for fit in (fit_sigmoid, fit_isotonic):
        with pytest.warns(CalibrationWarning):
            assert np.ptp(fit(np.full(20, 0.3), y, np.ones(20)).log_odds(np.arange(3.0))) == 0


def test_a_feature_without_information_is_level_end_to_end():
    y, groups = np.tile([0, 1, 1], 40), np.repeat(np.arange(40), 3)
    # a constant leaves the training share, which is high where the held-out share is low
    y[:50] = 0
    with pytest.warns(CalibrationWarning):
        fitted = ValidityClassifier(calibration="sigmoid").fit(np.ones((120, 1)), y, groups=groups)
    assert fitted.calibrator_.slope == 0
    assert np.ptp(fitted.predict_proba(np.arange(9.0)[:, None])[:, 1]) == 0


def reference(X):
    """The default logistic classifier on X, in scikit-learn's own parts."""
    return make_pipeline(StandardScaler(), LogisticRegression(
        C=10 / X.shape[1], solver="newton-cholesky", tol=1e-12))


def test_sigmoid_is_scikit_learns_cross_fitted_calibration():
    X, y, groups = problem()
    folds = problem_folds(groups, y, 5, FOLD_SEED)
    ours = ValidityClassifier(calibration="sigmoid").fit(X, y, groups=groups)
    theirs = CalibratedClassifierCV(reference(X), method="sigmoid", cv=folds, ensemble=False)
    assert ours.predict_proba(X) == pytest.approx(theirs.fit(X, y).predict_proba(X), abs=1e-5)
    plain = ValidityClassifier().fit(X, y)
    assert np.array_equal(ours.margin(X), plain.decision_function(X))
    assert not np.allclose(ours.decision_function(X), plain.decision_function(X), atol=0.05)


def test_isotonic_is_scikit_learns_on_out_of_fold_margins():
    X, y, groups = problem()
    folds = problem_folds(groups, y, 5, FOLD_SEED)
    margins = cross_val_predict(reference(X), X, y, cv=folds, method="decision_function")
    theirs = IsotonicRegression(y_min=1 / 202, y_max=201 / 202, out_of_bounds="clip")
    theirs.fit(margins, y)
    ours = ValidityClassifier(calibration="isotonic").fit(X, y, groups=groups)
    expected = theirs.predict(reference(X).fit(X, y).decision_function(X))
    assert ours.predict_proba(X)[:, 1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["logistic", "xgboost", "mlp"])
@pytest.mark.parametrize("grouped", [True, False])
def test_a_weight_is_copies_for_the_folds_and_the_calibrator(kind, grouped):
    X, y, groups = problem(80, 3)
    X[:, 0] += y  # enough to be seen by trees on 60 rows
    weights = np.random.default_rng(2).integers(0, 4, 80)
    weighted, copied = (ValidityClassifier(kind, calibration="sigmoid", class_weight="balanced")
                        for _ in range(2))
    ids = groups if grouped else None
    weighted.fit(X, y, groups=ids, sample_weight=weights)
    shuffled = np.random.default_rng(3).permutation(np.arange(80).repeat(weights))
    copied.fit(X[shuffled], y[shuffled], groups=groups[shuffled] if grouped else None)
    # trees compute in float32; the network stops near its minimum, not at it
    tolerance = {"logistic": 1e-6, "xgboost": 1e-4, "mlp": 2e-2}[kind]
    assert weighted.predict_proba(X) == pytest.approx(copied.predict_proba(X), abs=tolerance)


def test_isotonic_counts_a_weight_as_copies():
    margins, y, weights = scored(values=np.arange(20) / 5)
    copies = weights.astype(int)
    weighted = fit_isotonic(margins, y, weights)
    copied = fit_isotonic(margins.repeat(copies), y.repeat(copies), np.ones(copies.sum()))
    grid = np.linspace(-1, 5, 200)
    assert weighted.log_odds(grid) == pytest.approx(copied.log_odds(grid))


def test_class_weights_set_the_population_that_is_calibrated_to():
    X, y, groups = problem(600)
    heavy = ValidityClassifier(calibration="sigmoid", class_weight={0: 1.0, 1: 3.0})
    same = ValidityClassifier(calibration="sigmoid").fit(
        X, y, groups=groups, sample_weight=np.where(y == 1, 3.0, 1.0))
    heavy.fit(X, y, groups=groups)
    # the design reads sample weights and not class weights, so the two agree nearly
    assert heavy.predict_proba(X) == pytest.approx(same.predict_proba(X), abs=0.02)
    share = 3 * y.sum() / (3 * y.sum() + (1 - y).sum())
    p = heavy.predict_proba(X)[:, 1]
    assert np.average(p, weights=np.where(y == 1, 3.0, 1.0)) == pytest.approx(share, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_an_overconfident_model_means_what_it_says_on_new_problems(method):
    X, y, groups = problem(8000, 60, seed=1)
    seen = groups < 100  # 400 rows of 60 columns, nearly unpenalised
    plain, calibrated = (
        ValidityClassifier(C=1e3, calibration=c).fit(X[seen], y[seen], groups=groups[seen])
        .predict_proba(X[~seen])[:, 1] for c in (None, method))
    new = y[~seen]
    assert ece(new, calibrated) < 0.5 * ece(new, plain)
    assert brier(new, calibrated) < brier(new, plain)
    drop = auroc(new, plain) - auroc(new, calibrated)
    assert abs(drop) < (1e-12 if method == "sigmoid" else 0.02)  # a step ties what it levels


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_inner_folds_cut_no_problem_and_part_no_copies(seed, grouped):
    rng = np.random.default_rng(seed)
    X, y, groups = problem(80, 2, seed=seed)
    rows = rng.permutation(np.arange(80).repeat(rng.integers(1, 4, 80)))
    ids = groups if grouped else np.arange(80)
    once = inner_folds(X, y, groups if grouped else None, 4, seed)
    folds = inner_folds(X[rows], y[rows], groups[rows] if grouped else None, 4, seed)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(rows.size))
    for (train, test), (_, alone) in zip(folds, once, strict=True):
        assert not set(ids[rows[train]]) & set(ids[rows[test]])
        assert set(rows[test]) == set(alone)
    if grouped:
        expected = problem_folds(groups, y, 4, seed)
        assert all(np.array_equal(a[1], b[1]) for a, b in zip(once, expected, strict=True))


def test_the_calibrator_never_sees_a_problem_its_model_has_seen():
    X, y, groups = problem(120, 3)
    y = np.random.default_rng(5).integers(0, 2, 30)[groups]  # labels known from the problem alone
    X = np.hstack([X, np.eye(30)[groups] * 10])  # and the problem known from the columns
    leaky = ValidityClassifier("logistic", C=100, calibration="isotonic").fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        grouped = ValidityClassifier("logistic", C=100, calibration="isotonic")
        grouped.fit(X, y, groups=groups)
    assert np.abs(leaky.decision_function(X)).mean() > 3
    assert np.abs(grouped.decision_function(X)).mean() < 1


def test_the_number_of_folds_and_the_seed_matter():
    X, y, groups = problem()
    slopes = {
        ValidityClassifier(calibration="sigmoid", calibration_folds=k, random_state=seed)
        .fit(X, y, groups=groups).calibrator_.slope for k, seed in itertools.product((3, 7), (0, 1))
    }
    assert len(slopes) == 4


def test_what_cannot_be_calibrated_raises():
    X, y, groups = problem()
    with pytest.raises(ParameterError, match="calibration must be None or one of sigmoid, iso"):
        ValidityClassifier(calibration="platt").fit(X, y)
    with pytest.raises(ParameterError, match="calibration_folds=1: n_splits must be at least 2"):
        ValidityClassifier(calibration="sigmoid", calibration_folds=1).fit(X, y)
    with pytest.raises(LabelError, match="calibration_folds=5: 3 problems cannot make 5 folds"):
        ValidityClassifier(calibration="isotonic").fit(X, y, groups=groups % 3)
