"""L2-regularised logistic regression that stays quick when columns far outnumber rows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

__all__ = ["LinearHead", "fit_linear"]

Array = NDArray[np.float64]

TOLERANCE = 1e-10
"""Largest change of a logit in the last Newton step; the error left is about its square."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """logit = Z coef + intercept."""

    coef: Array
    """(D,)"""
    intercept: float

    def margin(self, Z: Array) -> Array:
        """(N, D) columns -> (N,) logits of the positive class."""
        return np.asarray(Z @ self.coef + self.intercept)


def fit_linear(Z: Array, y: Array, weights: Array, C: float, max_iter: int
               ) -> tuple[LinearHead, int]:
    """Minimise C sum_i w_i log-loss_i + |coef|^2 / 2, intercept free -> (head, iterations).

    ``Z`` (N, D), ``y`` (N,) 0 / 1, ``weights`` (N,) positive. Both solvers reach the one minimum to
    rounding; which is used follows from the shape and shows in the time only.
    """
    if Z.shape[1] > Z.shape[0]:
        return _fit_dual(Z, y, C * weights, max_iter)
    model = LogisticRegression(C=C, solver="newton-cholesky", tol=TOLERANCE, max_iter=max_iter)
    model.fit(Z, y, sample_weight=weights)
    head = LinearHead(np.ascontiguousarray(model.coef_[0]), float(model.intercept_[0]))
    return head, int(model.n_iter_[0])


def _fit_dual(Z: Array, y: Array, cost: Array, max_iter: int) -> tuple[LinearHead, int]:
    """Newton's method on coef = Z' a (Rasmussen and Williams 2006, Algorithm 3.1, plus intercept).

    The minimum lies in the row space, so N dual coefficients a with the N x N Gram matrix replace
    D coefficients; a step costs N^3 whatever D is.
    """
    gram = Z @ Z.T
    a, b = np.zeros(y.size), 0.0
    iteration, change = 0, np.inf
    while change > TOLERANCE * max(1.0, np.abs(gram @ a + b).max()):
        if iteration == max_iter:
            warnings.warn(f"logistic regression did not converge in {max_iter} steps; raise "
                          "max_iter or lower C", ConvergenceWarning, stacklevel=2)
            break
        iteration += 1
        a_new, b_new = _newton_target(gram, gram @ a + b, y, cost)
        step = _descend(gram, y, cost, (a, b), (a_new - a, b_new - b))
        change = step * np.abs(gram @ (a_new - a) + (b_new - b)).max()
        a, b = a + step * (a_new - a), b + step * (b_new - b)
    return LinearHead(Z.T @ a, float(b)), iteration


def _newton_target(gram: Array, f: Array, y: Array, cost: Array) -> tuple[Array, float]:
    """The minimum of the quadratic that touches the objective at logits ``f`` (N,)."""
    p = np.exp(-np.logaddexp(0, -f))
    h = cost * p * np.exp(-np.logaddexp(0, f))  # p (1 - p) without cancellation
    root = np.sqrt(h)
    right = np.stack([h * f - cost * (p - y), h], axis=1)
    inner = np.linalg.solve(np.eye(y.size) + root[:, None] * gram * root,
                            root[:, None] * (gram @ right))
    u, v = (right - root[:, None] * inner).T
    b = float(u.sum() / v.sum())  # the free intercept makes the dual coefficients sum to zero
    return u - b * v, b


def _descend(gram: Array, y: Array, cost: Array, start: tuple[Array, float],
             move: tuple[Array, float]) -> float:
    """Halve the step until the objective does not rise: full steps alone may overshoot."""
    def objective(t: float) -> float:
        a = start[0] + t * move[0]
        f = gram @ a
        loss = np.logaddexp(0, (1 - 2 * y) * (f + start[1] + t * move[1]))
        return float(cost @ loss + a @ f / 2)

    now, step = objective(0.0), 1.0
    slack = 1e-12 * max(1.0, abs(now))
    while objective(step) > now + slack and step > 1e-6:
        step /= 2
    return step
