"""Minus the distance from a set of reference traces, unlabelled or known to be valid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.validation import check_array, check_is_fitted

from validator.classifier.design import Design, fit_design
from validator.errors import FeatureMismatchError, ParameterError
from validator.families import learned_names
from validator.types import FeatureMatrix, Provenance

__all__ = ["METHODS", "ReferenceDistance"]

Array = NDArray[np.float64]

METHODS = ("mahalanobis", "knn", "isolation_forest")

MOST_COMPONENTS = 32
"""``n_components="auto"`` keeps no more, and one for every four reference traces at most: a
covariance of K directions needs several rows for each."""


class ReferenceDistance(BaseEstimator):  # type: ignore[misc]
    """How near a trace is to a reference set: higher is nearer, read as more valid.

    That the valid traces are the typical ones is an assumption, not something a distance can check.
    Features are standardised, NaN become medians with an indicator column, as the classifier does.

    Parameters
    ----------
    method : "mahalanobis": -sqrt((z - m)' S^-1 (z - m)) with the Ledoit-Wolf covariance S (2004);
        "knn": minus the mean Euclidean distance to the k nearest reference traces;
        "isolation_forest": scikit-learn's ``score_samples`` (Liu et al. 2008), in [-1, 0].
    n_components : int, principal components kept of the standardised columns; None keeps all of
        them; "auto": the smaller of 32 and a quarter of the reference traces where there are more
        columns than that, else None.
    k : int, neighbours of "knn".
    columns : names to read; None: every column but baselines and hidden states of a feature
        matrix, every column of an array.
    n_estimators : int, trees of "isolation_forest".
    random_state : int, seed of "isolation_forest".

    Attributes
    ----------
    design_, n_features_in_, n_components_ (None where all are kept), columns_ and provenance_
    (None after an array), rows_, the (N, K) reference as it is compared with, and model_, the
    covariance, neighbours or forest fitted to it.
    """

    def __init__(self, method: str = "mahalanobis", *, n_components: int | str | None = "auto",
                 k: int = 10, columns: Sequence[str] | None = None, n_estimators: int = 200,
                 random_state: int = 0) -> None:
        self.method = method
        self.n_components = n_components
        self.k = k
        self.columns = columns
        self.n_estimators = n_estimators
        self.random_state = random_state

    def fit(self, X: FeatureMatrix | ArrayLike, y: object = None) -> ReferenceDistance:
        """Learn the reference from a feature matrix or an (N, F) array; ``y`` is not read.

        Raises ParameterError for a parameter out of range or fewer than two traces,
        FeatureMismatchError for columns that are not there.
        """
        if self.method not in METHODS:
            raise ParameterError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        self.provenance_: Provenance | None = None
        self.columns_: tuple[str, ...] | None = None
        self._ids: frozenset[str] = frozenset()
        if isinstance(X, FeatureMatrix):
            self.provenance_, self._ids = X.provenance, frozenset(X.trace_ids)
            self.columns_ = learned_names(X.names) if self.columns is None else tuple(self.columns)
        elif self.columns is not None:
            raise ParameterError("columns name columns of a feature matrix; an array has no names, "
                                 "pass the part of it that is to be read")
        rows = self._rows(X)
        n, self.n_features_in_ = rows.shape
        if n < 2:
            raise ParameterError(f"a reference set needs at least 2 traces, got {n}")
        if self.method == "knn" and not 1 <= self.k <= n:
            raise ParameterError(f"k must lie in [1, {n}], the reference traces, got {self.k}")
        self.n_components_ = self._components(rows.shape)
        self.design_: Design = fit_design(rows, np.ones(n), self.n_components_)
        self.rows_: Array = self.design_.transform(rows)
        self.model_ = self._model().fit(self.rows_)
        return self

    def score(self, X: FeatureMatrix | ArrayLike) -> Array:
        """(N,) minus the distance of each trace; higher is nearer to the reference.

        A trace that is part of the reference is nearer to it by construction: compare scores of
        traces that are all in it, or all outside.
        Raises FeatureMismatchError for other columns, model or feature set than were fitted,
        ParameterError where some of the traces are in the reference and some are not.
        """
        check_is_fitted(self)
        if isinstance(X, FeatureMatrix):
            self._require_comparable(X)
        rows = self._rows(X)
        if rows.shape[1] != self.n_features_in_:
            raise FeatureMismatchError(
                f"the reference has {self.n_features_in_} columns, got {rows.shape[1]}")
        return self.score_rows(self.design_.transform(rows))

    def score_rows(self, Z: Array) -> Array:
        """The same for (N, K) rows in the form of ``rows_``, which nothing is checked of."""
        if self.method == "mahalanobis":
            return np.asarray(-np.sqrt(np.maximum(self.model_.mahalanobis(Z), 0.0)))
        if self.method == "knn":
            return -np.asarray(self.model_.kneighbors(Z)[0].mean(axis=1))
        return np.asarray(self.model_.score_samples(Z))

    def _rows(self, X: FeatureMatrix | ArrayLike) -> Array:
        """(N, F) float64 of the columns that are read, NaN allowed."""
        if self.columns_ is None and isinstance(X, FeatureMatrix):
            raise FeatureMismatchError("the reference was an array without names; score an array "
                                       "with the same columns")
        if self.columns_ == ():
            raise ParameterError("no column is left to measure a distance in: the feature matrix "
                                 "holds baselines and hidden states only; name `columns`")
        values = X.select(self.columns_ or ()) if isinstance(X, FeatureMatrix) else X
        return np.asarray(check_array(values, dtype=np.float64, ensure_all_finite="allow-nan"))

    def _components(self, shape: tuple[int, int]) -> int | None:
        if self.n_components == "auto":
            most = max(1, min(MOST_COMPONENTS, shape[0] // 4))
            return most if shape[1] > most else None
        if isinstance(self.n_components, str):
            raise ParameterError('n_components must be a number, "auto" or None, got '
                                 f"{self.n_components!r}")
        return self.n_components

    def _model(self) -> LedoitWolf | NearestNeighbors | IsolationForest:
        if self.method == "mahalanobis":
            return LedoitWolf()
        if self.method == "knn":
            return NearestNeighbors(n_neighbors=self.k, algorithm="brute")
        return IsolationForest(n_estimators=self.n_estimators, random_state=self.random_state)

    def _require_comparable(self, features: FeatureMatrix) -> None:
        if self.provenance_ is not None:
            self.provenance_.require_equal(features.provenance, "features for this reference")
        inside = [i for i in features.trace_ids if i in self._ids]
        if 0 < len(inside) < len(features):
            raise ParameterError(
                f"{len(inside)} of {len(features)} traces are part of the reference set, first "
                f"{inside[0]!r}, and nearer to it by construction; score those apart from the "
                "others, or fit the reference without them")
