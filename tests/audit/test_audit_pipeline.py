"""The fast logistic is the classifier's own; shuffled labels give it nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from validator.audit import pipeline
from validator.audit.permutation import blind_folds, shuffled_labels
from validator.audit.pipeline import FoldedLogistic, batched_logistic
from validator.classifier import ValidityClassifier
from validator.metrics import auroc


@pytest.mark.parametrize(("columns", "C"), [(400, None), (400, 0.05), (12, None), (12, 3.0)])
def test_scores_are_those_of_the_classifier_less_its_intercept(
    columns: int, C: float | None
) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 8)) @ rng.normal(size=(8, columns)) + rng.normal(size=(120, columns))
    X[rng.random(X.shape) < 0.02] = np.nan
    X[:, 1] = 3.0
    X[:, 2] = np.nan
    problems = np.arange(120) // 4
    labels = rng.integers(0, 2, (3, 120))
    scores = FoldedLogistic(3, C).fit(X, problems).scores(labels)
    for y, row in zip(labels, scores, strict=True):
        for train, test in blind_folds(problems, 3):
            model = ValidityClassifier(C=C).fit(X[train], y[train])
            expected = model.decision_function(X[test]) - model.head_.intercept
            np.testing.assert_allclose(row[test], expected, atol=2e-3 * np.abs(expected).max())


def test_constants_are_left_out() -> None:
    """Over many rows the mean of a constant is off by rounding, which would become a column."""
    rng = np.random.default_rng(0)
    problems, X = np.arange(2000) // 4, rng.normal(size=(2000, 3))
    constants = np.tile(rng.uniform(1, 5, 40).astype(np.float32).astype(float), (2000, 1))
    y = rng.integers(0, 2, (2, 2000))
    alone = FoldedLogistic(2, 0.3).fit(X, problems).scores(y)
    beside = FoldedLogistic(2, 0.3).fit(np.hstack([X, constants]), problems).scores(y)
    np.testing.assert_allclose(beside, alone, atol=1e-7)
    assert not FoldedLogistic(2).fit(constants, problems).scores(y).any()


def test_a_fold_of_one_class_ties_and_does_not_touch_the_others() -> None:
    rng = np.random.default_rng(0)
    problems, X = np.arange(40) // 2, rng.normal(size=(40, 3))
    model = FoldedLogistic(2).fit(X, problems)
    y = rng.integers(0, 2, 40)
    alone = y.copy()
    alone[model.folds_[0].train] = 1
    both = model.scores(np.stack([alone, y]))
    assert (both[0, model.folds_[0].test] == 0).all()
    np.testing.assert_allclose(both[1], model.scores(y[None])[0], atol=1e-6)


def test_not_converging_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_ITER", 2)
    rows = np.linspace(-1, 1, 20)[:, None]
    with pytest.warns(ConvergenceWarning, match="2 steps"):
        batched_logistic(rows, (rows > 0.1).astype(int), 1e4)


@pytest.mark.slow
def test_shuffled_labels_give_the_learned_score_nothing() -> None:
    """Mean AUROC over 20 samples of clustered problems, five shuffles each."""
    values = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        problems = np.repeat(np.arange(60), 6)
        X = rng.normal(size=(60, 300))[problems] + rng.normal(size=(360, 300))
        y = (rng.random(360) < 1 / (1 + np.exp(-2 * X[:, 0]))).astype(int)
        model = FoldedLogistic(5, seed=seed).fit(X, problems)
        drawn = shuffled_labels(y, problems, 5, seed=seed)
        values += [auroc(*pair) for pair in zip(drawn, model.scores(drawn), strict=True)]
        assert auroc(y, model.scores(y[None])[0]) > 0.6
    assert np.mean(values) == pytest.approx(0.5, abs=0.03)
