"""Univariate selection: the columns that rank valid above invalid, or below, most surely."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from validator.errors import ParameterError

__all__ = ["auroc_distances", "select_columns"]

Array = NDArray[np.float64]

BLOCK = 2_000_000
"""Values ranked at once: the sorted copies of a block stay near 100 MB."""


def select_columns(X: Array, y: Array, weights: Array, k: int) -> NDArray[np.int64]:
    """The ``k`` columns of (N, F) with the largest |AUROC - 1/2|, as ascending indices (k,).

    Ties go to the earlier column. Raises ParameterError unless 1 <= k <= F.
    """
    if not 1 <= k <= X.shape[1]:
        raise ParameterError(f"n_features must lie in [1, {X.shape[1]}], the number of columns, "
                             f"got {k}")
    best = np.argsort(-auroc_distances(X, y, weights), kind="stable")[:k]
    return np.sort(best).astype(np.int64)


def auroc_distances(X: Array, y: Array, weights: Array) -> Array:
    """|AUROC - 1/2| of each column of (N, F), in [0, 1/2], against ``y`` (N,) 0.0 / 1.0.

    A row of weight k counts as k rows, exactly. A NaN is left out of its column: the AUROC is that
    of the observed rows, and 1/2, no distance, where these are of one class. That a value is
    missing counts for nothing here.
    """
    step = max(1, BLOCK // X.shape[0])
    return np.concatenate([_distances(np.ascontiguousarray(X[:, i:i + step].T), y, weights)
                           for i in range(0, X.shape[1], step)])


def _distances(rows: Array, y: Array, weights: Array) -> Array:
    """The same for (B, N), a column to a row: Mann-Whitney counts (Hanley and McNeil 1982)."""
    order = np.argsort(rows, axis=1)  # NaN last
    ranked = np.take_along_axis(rows, order, axis=1)
    weight = np.where(np.isnan(ranked), 0.0, weights[order])
    valid = weight * y[order]
    invalid = weight - valid
    through = np.cumsum(invalid, axis=1)
    # invalid weight below a tie, and up to its end: these sums ascend, so that filling them in
    # from the tie's first and last element is a running maximum and a running minimum
    change = ranked[:, 1:] != ranked[:, :-1]
    edge = np.ones((len(rows), 1), dtype=bool)
    below = np.where(np.hstack([edge, change]), through - invalid, 0.0)
    upto = np.where(np.hstack([change, edge]), through, np.inf)
    below = np.maximum.accumulate(below, axis=1)
    upto = np.minimum.accumulate(upto[:, ::-1], axis=1)[:, ::-1]
    # twice the concordant pairs, a tie counting half: whole numbers where the weights are, so
    # that a column and its negative tie exactly
    concordant = (valid * (below + upto)).sum(axis=1)
    pairs = valid.sum(axis=1) * invalid.sum(axis=1)
    return np.asarray(np.abs(concordant - pairs) / (2 * np.where(pairs > 0, pairs, 1.0)))
