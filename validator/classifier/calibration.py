"""From margins to probabilities that mean what they say, learned on margins of unseen problems."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from validator.errors import CalibrationWarning

__all__ = ["METHODS", "Calibrator", "IsotonicCalibrator", "SigmoidCalibrator", "fit_calibrator",
           "fit_isotonic", "fit_sigmoid"]

Array = NDArray[np.float64]

METHODS = ("sigmoid", "isotonic")


@dataclass(frozen=True, slots=True)
class SigmoidCalibrator:
    """log-odds = intercept + slope margin (Platt 1999)."""

    intercept: float
    slope: float
    """Not negative."""

    def log_odds(self, margin: Array) -> Array:
        """(N,) margins -> (N,) calibrated log-odds."""
        return self.intercept + self.slope * margin


@dataclass(frozen=True, slots=True, eq=False)
class IsotonicCalibrator:
    """P(valid) as a rising line through K points, level outside (Zadrozny and Elkan 2002)."""

    margins: Array
    """(K,) ascending."""
    probabilities: Array
    """(K,) ascending, inside (0, 1)."""

    def log_odds(self, margin: Array) -> Array:
        """(N,) margins -> (N,) calibrated log-odds, finite."""
        p = np.interp(margin, self.margins, self.probabilities)
        return np.asarray(np.log(p) - np.log1p(-p))


Calibrator = SigmoidCalibrator | IsotonicCalibrator


def fit_calibrator(method: str, margins: Array, y: Array, weights: Array) -> Calibrator:
    """The calibrator of the given name in :data:`METHODS`; arguments as :func:`fit_sigmoid`."""
    fit = fit_sigmoid if method == "sigmoid" else fit_isotonic
    return fit(margins, y, weights)


def fit_sigmoid(margins: Array, y: Array, weights: Array) -> SigmoidCalibrator:
    """Platt's sigmoid (1999, Section 2.2) on (N,) out-of-fold margins.

    ``y`` (N,) 0.0 / 1.0, ``weights`` (N,) positive; k is k copies. Minimises the weighted cross
    entropy to his targets, (N+ + 1) / (N+ + 2) for a valid row and 1 / (N- + 2) for an invalid
    one, N+ and N- the weight of each class. A calibrator must not turn a ranking round: where the
    best slope is negative, the best slope that is not, 0, is taken, every row gets the log-odds of
    the mean target, and a CalibrationWarning says so.
    """
    valid = float(weights @ y)
    invalid = float(weights @ (1 - y))
    target = np.where(y == 1, (valid + 1) / (valid + 2), 1 / (invalid + 2))
    spread = np.ptp(margins)
    if spread > 0:
        center = np.average(margins, weights=weights)
        slope, intercept = _unpenalised((margins - center) / spread, target, weights)
        if slope > 0:
            return SigmoidCalibrator(float(intercept - slope * center / spread),
                                     float(slope / spread))
    share = float(np.average(target, weights=weights))
    _warn_level(share)
    return SigmoidCalibrator(float(np.log(share / (1 - share))), 0.0)


def _unpenalised(u: Array, target: Array, weights: Array) -> tuple[float, float]:
    """Logistic regression on (N,) with soft targets -> (slope, intercept).

    A row of target t is a valid row of weight t and an invalid one of weight 1 - t.
    """
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=100)
    model.fit(np.tile(u, 2)[:, None], np.repeat([1, 0], u.size),
              sample_weight=np.concatenate([weights * target, weights * (1 - target)]))
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def fit_isotonic(margins: Array, y: Array, weights: Array) -> IsotonicCalibrator:
    """Isotonic regression of (N,) labels on (N,) out-of-fold margins; arguments as for the sigmoid.

    The probabilities are held within [1 / (n + 2), (n + 1) / (n + 2)], n the sum of the weights:
    Laplace's rule of succession for n rows of one class, so that the log-odds stay finite. Level
    stretches turn different margins into ties. Where the labels do not rise with the margin at
    all, every row gets the share of valid rows, and a CalibrationWarning says so.
    """
    n = float(weights.sum())
    model = IsotonicRegression(out_of_bounds="clip").fit(margins, y, sample_weight=weights)
    levels = np.asarray(model.y_thresholds_, dtype=np.float64)
    if levels[0] == levels[-1]:
        _warn_level(float(levels[0]))
    return IsotonicCalibrator(np.array(model.X_thresholds_, dtype=np.float64),
                              np.clip(levels, 1 / (n + 2), (n + 1) / (n + 2)))


def _warn_level(share: float) -> None:
    warnings.warn(
        "on problems it was not fitted to, the model ranks valid traces no higher than invalid "
        f"ones: calibrated, every trace gets P(valid) = {share:.3g}. Look for features that carry "
        "something, or set calibration=None to see the bare ranking.",
        CalibrationWarning, stacklevel=3)
