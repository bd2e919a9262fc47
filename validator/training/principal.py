"""The leading principal axes of many rows and columns, quickly, for a classifier to read."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.extmath import randomized_svd
from sklearn.utils.validation import check_is_fitted

from validator.errors import FeatureMismatchError, ParameterError

__all__ = ["PrincipalAxes"]

Array = NDArray[np.float32]

CONSTANT = 10 * np.finfo(np.float32).eps
"""Spread, relative to the largest value, below which a column is a constant seen through
rounding."""


class PrincipalAxes(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """N rows of F features -> K columns of equal variance that span the K leading axes.

    Exact fits on N rows and more than N columns cost N^3: a minute each from some 5,000 rows on.
    The axes come from a randomised singular value decomposition (Halko et al. 2011, Algorithm 4.4)
    in single precision: 2 N F K operations for each of ``2 n_iter + 2`` products.

    A NaN becomes the training mean of its feature, and a feature with gaps in training also gets a
    0 / 1 column that says where; the columns are standardised before the axes are found. The K
    scores are mixed by a Hadamard matrix over sqrt(K), which is orthogonal and has entries of one
    size: the columns that come out have equal variances in training, so a classifier that
    standardises its columns changes nothing but a common factor, and its L2 penalty is the one it
    would have on all standardised columns.

    Parameters
    ----------
    n_components : int, K: a power of 2, at most N and at most the number of columns.
    n_iter : int, power iterations.
    random_state : int, of the random start.

    Attributes
    ----------
    gaps_ (indices of the features with indicators), center_ and scale_ (D,), axes_ (D, K), share_
    (part of the training variance that the axes keep).
    """

    def __init__(self, n_components: int = 512, *, n_iter: int = 2, random_state: int = 0) -> None:
        self.n_components = n_components
        self.n_iter = n_iter
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> PrincipalAxes:
        """Find the axes of (N, F) features, NaN allowed; ``y`` is not read.

        Raises ParameterError for a number of components that is no power of 2 or too large.
        """
        rows = np.asarray(X, dtype=np.float32)
        missing = np.isnan(rows)
        self.n_features_in_ = rows.shape[1]
        self.gaps_ = np.flatnonzero(missing.any(axis=0))
        k, limit = self.n_components, min(len(rows), rows.shape[1] + self.gaps_.size)
        if not 1 <= k <= limit or k & (k - 1):
            raise ParameterError(f"the number of components must be a power of 2 from 1 to {limit}"
                                 f", the smaller of rows and columns; got {k}")
        total = np.where(missing, 0, rows).sum(axis=0, dtype=np.float64)
        mean = total / np.maximum((~missing).sum(axis=0), 1)
        self.center_: Array = np.r_[mean, missing[:, self.gaps_].mean(axis=0)].astype(np.float32)
        D = self._centred(rows)
        spread = np.sqrt(np.square(D).mean(axis=0, dtype=np.float64))
        size = np.abs(self.center_) + np.abs(D).max(axis=0)
        # an infinite scale makes a constant column 0, in training and later
        self.scale_: Array = np.where(spread > CONSTANT * size, spread, np.inf).astype(np.float32)
        D /= self.scale_
        _, values, axes = randomized_svd(D, k, n_iter=self.n_iter, random_state=self.random_state)
        self.share_ = float(np.square(values).sum() / np.square(D).sum(dtype=np.float64))
        self.axes_: Array = np.ascontiguousarray(axes.T @ _hadamard(k), dtype=np.float32)
        return self

    def transform(self, X: ArrayLike) -> Array:
        """(N, F) features, NaN allowed -> (N, K) columns."""
        check_is_fitted(self)
        rows = np.asarray(X, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.n_features_in_:
            raise FeatureMismatchError(
                f"expected {self.n_features_in_} features as in training, got shape {rows.shape}")
        return np.asarray((self._centred(rows) / self.scale_) @ self.axes_)

    def _centred(self, rows: Array) -> Array:
        """(N, F) -> (N, D): features less their training means, gaps at 0, then the indicators."""
        missing = np.isnan(rows)
        return np.hstack([np.where(missing, np.float32(0), rows - self.center_[: rows.shape[1]]),
                          missing[:, self.gaps_] - self.center_[rows.shape[1]:]])


def _hadamard(k: int) -> Array:
    """(k, k) orthogonal, all entries +-1 / sqrt(k) (Sylvester's construction); k a power of 2."""
    H = np.ones((1, 1), dtype=np.float32)
    while len(H) < k:
        H = np.block([[H, H], [H, -H]])
    return H / np.float32(np.sqrt(k))
