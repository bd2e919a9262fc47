"""Inductive Venn-Abers prediction: P(valid) as a pair of calibrated probabilities.

Vovk, Petej and Fedorova, "Large-scale probabilistic predictors with and without guarantees of
validity" (NIPS 2015), section 2: isotonic regression of the calibration labels and of the new
point's label, once taken as 0 and once as 1. One of the two is calibrated, whatever the data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.isotonic import isotonic_regression

from validator.metrics.inputs import as_labels, as_scores

__all__ = ["CALIBRATION", "merged_probability", "venn_abers"]

Array = NDArray[np.float64]

CALIBRATION = "calibration"
"""Key of an artifact's metadata: out-of-fold margins and labels of its training traces."""


def venn_abers(margins: ArrayLike, labels: ArrayLike, new: ArrayLike) -> Array:
    """Bounds (M, 2) of P(valid) for new margins (M,): columns p0 <= p1, both in [0, 1].

    ``margins`` (N,) and ``labels`` (N,) are of traces the classifier was not fitted to. Takes
    O(M N): the regression is run twice for every distinct new margin.
    """
    y = as_labels(labels)
    s = as_scores(margins, y.size, "margins")
    order = np.argsort(s, kind="stable")
    s, y = s[order], y[order]
    values, starts = np.unique(s, return_index=True)
    weights = np.diff(np.r_[starts, s.size]).astype(np.float64)
    means = np.add.reduceat(y.astype(np.float64), starts) / weights
    distinct, where = np.unique(as_scores(new, np.size(new), "margins"), return_inverse=True)
    bounds = np.array([[_fitted_at(values, means, weights, x, label) for label in (0.0, 1.0)]
                       for x in distinct])
    return np.asarray(bounds[where], dtype=np.float64)


def merged_probability(bounds: Array) -> Array:
    """(M,) one probability p1 / (1 - p0 + p1), which minimises the worst regret of log loss.

    Equation 5 of the same paper; ``bounds`` (M, 2).
    """
    p0, p1 = bounds[:, 0], bounds[:, 1]
    return np.asarray(p1 / (1 - p0 + p1), dtype=np.float64)


def _fitted_at(values: Array, means: Array, weights: Array, x: float, label: float) -> float:
    """Isotonic fit at ``x`` when (x, label) joins the calibration points."""
    at = int(np.searchsorted(values, x))
    if at < values.size and values[at] == x:
        means, weights = means.copy(), weights.copy()
        means[at] = (means[at] * weights[at] + label) / (weights[at] + 1)
        weights[at] += 1
    else:
        means, weights = np.insert(means, at, label), np.insert(weights, at, 1.0)
    return float(isotonic_regression(means, sample_weight=weights)[at])
