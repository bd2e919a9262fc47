"""A cross-validated logistic score that is refitted to many labellings of the same rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from validator.audit.permutation import blind_folds
from validator.classifier.design import fit_design
from validator.classifier.estimator import LOGIT_VARIANCE

__all__ = ["FoldedLogistic", "batched_logistic"]

Array = NDArray[np.float64]

TOLERANCE = 1e-6
"""Largest coordinate change of the last step, in units where the curvature is at most one."""

MAX_ITER = 3000
_BLOCK = 32  # labellings fitted at once


@dataclass(frozen=True, slots=True, eq=False)
class _Fold:
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    rows: Array
    """(n, r) orthogonal coordinates of the training rows, r at most n, each of mean zero."""
    test_rows: Array
    """(m, r)"""
    columns: int
    """D, the standardised columns that the penalty is spread over."""


class FoldedLogistic:
    """Logistic regression under problem-grouped folds; only the labels change between fits.

    The model is that of ``ValidityClassifier(kind="logistic", C=C)``: same columns, same penalty,
    same minimum. Columns enter the fit through their inner products alone, so each fold's rows
    are turned once into at most n orthogonal coordinates with the same inner products; a fit then
    costs the same however many columns there are.

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

    def scores(self, labels: NDArray[np.int64],
               progress: Callable[[], None] = lambda: None) -> Array:
        """Out-of-fold log-odds less the intercept (B, N) for each labelling (B, N).

        The intercept is the training folds' share of valid traces, which is lower where the test
        fold's is higher: kept, it would put useless scores below an AUROC of one half.
        ``progress`` is called after each fold.
        """
        result = np.zeros(labels.shape, dtype=np.float64)
        for fold in self.folds_:
            C = LOGIT_VARIANCE / fold.columns if self.C is None else self.C
            for start in range(0, len(labels), _BLOCK):
                block = slice(start, start + _BLOCK)
                coef = batched_logistic(fold.rows, labels[block][:, fold.train].T, C)
                result[block, fold.test] = (fold.test_rows @ coef).T
            progress()
        return result


def _prepare(X: Array, train: NDArray[np.int64], test: NDArray[np.int64]) -> _Fold:
    blank = np.isnan(X[train]).all(axis=0)
    varied = (X[train] != X[train[0]]).any(axis=0) & ~blank  # a constant would be all rounding
    design = fit_design(X[np.ix_(train, varied)], np.ones(len(train)))
    Z, held_out = (design.transform(X[np.ix_(rows, varied)]) for rows in (train, test))
    centre = Z.mean(axis=0)  # zero to rounding, which the constant must not see
    Z, held_out = Z - centre, held_out - centre
    wide = Z.shape[1] > len(train)
    values, vectors = np.linalg.eigh(Z @ Z.T if wide else Z.T @ Z)
    kept = values > values.max(initial=0.0) * max(Z.shape) * np.finfo(np.float64).eps
    vectors = vectors[:, kept]
    if wide:  # left singular vectors: the right ones are Z' u / s
        vectors = Z.T @ (vectors / np.sqrt(values[kept]))
    columns = Z.shape[1] + int((~varied).sum() + blank.sum())  # a blank one has its indicator
    return _Fold(train, test, Z @ vectors, held_out @ vectors, columns)


def batched_logistic(rows: Array, labels: NDArray[np.int64], C: float) -> Array:
    """Coefficients (r, B) that minimise C sum log-loss + |coef|^2 / 2, intercept free.

    Args:
        rows: (n, r) columns that are orthogonal to each other and to the constant.
        labels: (n, B) 0 / 1, one labelling a column; one of one class gets zeros.
        C: inverse strength of the penalty.

    The Hessian lies below the diagonal C s^2 / 4 + 1 (Boehning 1992), s^2 the columns' squared
    norms: in units of its root the curvature is at most one, and Nesterov's accelerated gradient
    with restarts (O'Donoghue and Candes 2015) needs no step size. All labellings share the
    products, which is what makes them cheap.
    """
    n, r = rows.shape
    root = np.sqrt(np.r_[C * (rows**2).sum(axis=0) / 4 + 1, C * n / 4])[:, None]
    M = np.c_[rows, np.ones(n)]
    penalty = np.r_[np.ones(r), 0.0][:, None]
    mixed = (labels.min(axis=0) < labels.max(axis=0))[None, :]
    theta = np.zeros((r + 1, labels.shape[1]))
    ahead, momentum = theta, np.ones((1, labels.shape[1]))
    for _ in range(MAX_ITER):
        residual = 1 / (1 + np.exp(-(M @ (ahead / root)))) - labels
        gradient = (C * (M.T @ residual) + penalty * ahead / root) / root * mixed
        moved = ahead - gradient
        uphill = ((gradient * (moved - theta)).sum(axis=0) > 0)[None, :]
        momentum = np.where(uphill, 1.0, momentum)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = moved + np.where(uphill, 0.0, (momentum - 1) / following) * (moved - theta)
        theta, momentum = moved, following
        if np.abs(gradient).max() < TOLERANCE * max(1.0, np.abs(theta).max()):
            return np.asarray((theta / root)[:r])
    warnings.warn(f"a logistic score did not converge in {MAX_ITER} steps; lower C",
                  ConvergenceWarning, stacklevel=2)
    return np.asarray((theta / root)[:r])
