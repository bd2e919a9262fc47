"""A cross-validated logistic score that is refitted to many labellings of the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from validator.audit.permutation import blind_folds
from validator.classifier.design import fit_design
from validator.classifier.estimator import LOGIT_VARIANCE

__all__ = ["FoldedLogistic"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    train_rows: Array
    """(n, r) coordinates of the training rows, r at most n."""
    test_rows: Array
    """(m, r)"""
    columns: int
    """D, the standardised columns that the penalty is spread over."""


class FoldedLogistic:
    """Logistic regression under problem-grouped folds; only the labels change between fits.

    The model is that of ``ValidityClassifier(kind="logistic", C=C)``: same columns, same penalty,
    same minimum. Standardised columns enter the fit through their inner products alone, so each
    fold's rows are turned once into at most n coordinates with the same inner products; a fit
    then costs the same however many columns there are.

    Args:
        n_splits: folds, made without a look at the labels.
        C: inverse strength of the L2 penalty; None for 10 / number of columns.
        seed: of the folds.
    """

    def __init__(self, n_splits: int = 5, C: float | None = None, seed: int = 0) -> None:
        self.n_splits = n_splits
        self.C = C
        self.seed = seed

    def fit(self, X: NDArray[np.floating], problems: Sequence[Any] | NDArray[Any]
            ) -> FoldedLogistic:
        """Prepare the folds of (N, F) features, NaN allowed, and (N,) problem ids."""
        values = np.asarray(X, dtype=np.float64)
        folds = blind_folds(problems, self.n_splits, self.seed)
        self.folds_: list[_Fold] = [_prepare(values, train, test) for train, test in folds]
        return self

    def scores(self, labels: NDArray[np.int64]) -> Array:
        """(N,) out-of-fold log-odds less the intercept.

        The intercept is the training folds' share of valid traces, which is lower where the test
        fold's is higher: kept, it would put useless scores below an AUROC of one half.
        """
        result = np.zeros(labels.shape, dtype=np.float64)
        for fold in self.folds_:
            y = labels[fold.train]
            if 0 < y.sum() < y.size:  # one class teaches nothing: all rows of the fold tie
                result[fold.test] = fold.test_rows @ self._coefficients(fold, y)
        return result

    def _coefficients(self, fold: _Fold, y: NDArray[np.int64]) -> Array:
        C = LOGIT_VARIANCE / fold.columns if self.C is None else self.C
        model = LogisticRegression(C=C, tol=1e-6, max_iter=5000)
        return np.asarray(model.fit(fold.train_rows, y).coef_[0])


def _prepare(X: Array, train: NDArray[np.int64], test: NDArray[np.int64]) -> _Fold:
    design = fit_design(X[train], np.ones(len(train)))
    Z, held_out = design.transform(X[train]), design.transform(X[test])
    columns = Z.shape[1]
    if columns > len(train):
        values, vectors = np.linalg.eigh(Z @ Z.T)
        kept = values > values[-1] * len(train) * np.finfo(np.float64).eps
        basis, root = vectors[:, kept], np.sqrt(values[kept])
        Z, held_out = basis * root, held_out @ Z.T @ basis / root
    return _Fold(train, test, Z, held_out, columns)
