"""From a feature matrix with gaps to the standardised columns a linear model or a network reads.

Everything is weighted, so that a row of weight k is k copies of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.errors import ParameterError

__all__ = ["Design", "fit_design"]

Array = NDArray[np.float64]

CONSTANT = 10 * np.finfo(np.float64).eps
"""Relative spread below which a column is a constant seen through rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """The fitted preprocessing: F features -> D standardised columns -> K components if asked.

    A NaN becomes the training median of its feature; a feature that had gaps in training also gets
    a 0 / 1 column that says where. D = F + number of such features.
    """

    median: Array
    """(F,) of the observed training values; 0 where a feature was never observed."""
    gaps: NDArray[np.int64]
    """(D - F,) the features with an indicator column, ascending."""
    center: Array
    """(D,) training means."""
    scale: Array
    """(D,) training standard deviations; 1 for constant columns."""
    components: Array | None
    """(K, D) orthonormal rows, by descending variance; None to keep the D columns."""

    def standardise(self, X: Array) -> Array:
        """(N, F) features, NaN allowed -> (N, D) columns, finite."""
        return np.asarray((_fill(X, self.median, self.gaps) - self.center) / self.scale)

    def transform(self, X: Array) -> Array:
        """(N, F) features, NaN allowed -> (N, D) columns or (N, K) components, finite."""
        Z = self.standardise(X)
        return Z if self.components is None else np.asarray(Z @ self.components.T)


def fit_design(X: Array, weights: Array, n_components: int | None = None) -> Design:
    """Medians, gaps, moments and components of (N, F) features with (N,) positive weights.

    Raises ParameterError if the rows do not span ``n_components`` directions.
    """
    missing = np.isnan(X)
    gaps = np.flatnonzero(missing.any(axis=0)).astype(np.int64)
    median = _weighted_median(X, weights)
    D = _fill(X, median, gaps)
    share = weights / weights.sum()
    center = share @ D
    scale = np.sqrt(share @ (D - center) ** 2)
    # A weighted mean is off by more than CONSTANT where rows are many, so equality is asked first.
    varies = (D[0] != D).any(axis=0) & (scale > CONSTANT * np.abs(D).max(axis=0))
    center, scale = np.where(varies, center, D[0]), np.where(varies, scale, 1.0)
    components = None
    if n_components is not None:
        components = _principal((D - center) / scale * np.sqrt(share)[:, None], n_components)
    return Design(median, gaps, center, scale, components)


def _fill(X: Array, median: Array, gaps: NDArray[np.int64]) -> Array:
    missing = np.isnan(X)
    return np.hstack([np.where(missing, median, X), missing[:, gaps]])


def _weighted_median(X: Array, weights: Array) -> Array:
    """Per column, the middle of the observed values, each repeated ``weights`` times."""
    if (weights == weights[0]).all() and not np.isnan(X).any():
        return np.asarray(np.median(X, axis=0))  # the same numbers without sorting
    order = np.argsort(X, axis=0)  # NaN last
    ranked = np.take_along_axis(X, order, axis=0)
    total = np.cumsum(np.where(np.isnan(ranked), 0.0, weights[order]), axis=0)
    columns, half = np.arange(X.shape[1]), total[-1] / 2
    low = ranked[(total >= half).argmax(axis=0), columns]
    high = ranked[(total > half).argmax(axis=0), columns]
    return np.where(np.isnan(low), 0.0, low / 2 + high / 2)


def _principal(Z: Array, k: int) -> Array:
    """The first ``k`` right singular vectors of (N, D), largest entry positive, as rows."""
    wide = Z.shape[1] > Z.shape[0]
    values, vectors = np.linalg.eigh(Z @ Z.T if wide else Z.T @ Z)
    rank = int((values > values[-1] * max(Z.shape) * np.finfo(np.float64).eps).sum())
    if not 1 <= k <= rank:
        raise ParameterError(f"n_components must lie in [1, {rank}], the rank of the standardised "
                             f"training features, got {k}")
    top = vectors[:, ::-1][:, :k].T
    rows = (top @ Z) / np.sqrt(values[::-1][:k, None]) if wide else top
    peak = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return np.ascontiguousarray(rows * np.sign(peak))
