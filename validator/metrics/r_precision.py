"""Precision among the R lowest-scored rows, where R is how many invalid ones there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.metrics.bootstrap import Resampler, Statistic
from validator.metrics.inputs import as_labels, as_scores, require_both_classes

__all__ = ["r_precision", "r_precision_statistic"]

Array = NDArray[np.float64]


def r_precision(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Share of invalid rows among the R with the lowest scores, in [0, 1]; R = invalid rows.

    Precision and recall are equal there (Manning, Raghavan and Schuetze 2008, section 8.4). Of
    rows tied at the border the expected share is taken, as if they came in random order.
    ``labels`` (N,) 0 / 1, ``scores`` (N,), ``weights`` (N,) non-negative: a row of weight w counts
    w times. Raises LabelError if only one class is present, ScoreError for a NaN.
    """
    y = as_labels(labels)
    require_both_classes(y)
    w = np.ones(y.size) if weights is None else as_scores(weights, y.size, "weights")
    return float(_precisions(y, as_scores(scores, y.size), w[None, :])[0])


def r_precision_statistic(labels: ArrayLike, scores: ArrayLike, resampler: Resampler,
                          weights: ArrayLike | None = None) -> Statistic:
    """:func:`r_precision` on resamples of problems; NaN where a draw has no invalid row."""
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    w = np.ones(y.size) if weights is None else as_scores(weights, y.size, "weights")
    return lambda counts: _precisions(y, s, counts[:, resampler.index] * w)


def _precisions(y: NDArray[np.int64], s: Array, weights: Array) -> Array:
    """(B, N) weights -> (B,)."""
    order = np.argsort(s, kind="stable")
    ranked = s[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    sorted_weights = weights[:, order]
    total = np.add.reduceat(sorted_weights, starts, axis=1)
    invalid = np.add.reduceat(sorted_weights * (y[order] == 0), starts, axis=1)
    r = invalid.sum(axis=1, keepdims=True)
    room = np.clip(r - (np.cumsum(total, axis=1) - total), 0.0, total)
    share: Array = np.zeros_like(total)
    np.divide(room, total, out=share, where=total > 0)
    result: Array = np.full(len(weights), np.nan)
    np.divide((share * invalid).sum(axis=1), r[:, 0], out=result, where=r[:, 0] > 0)
    return result
