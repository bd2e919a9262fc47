"""Gradient-boosted trees on XGBoost's own Booster, which takes a NaN as a direction of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from validator.classifier.targets import require

__all__ = [
    "MAX_BIN",
    "BoostedHead",
    "best_tree_count",
    "booster_parameters",
    "fit_boosted",
    "thread_count",
]

Array = NDArray[np.float64]
Labelled = tuple[Array, Array, Array]
"""Z (N, D), y (N,) 0 / 1, weights (N,) positive."""

MAX_BIN = 64
"""Histogram bins of a column: about a thousand rows do not fill XGBoost's 256."""


@dataclass(frozen=True, slots=True, eq=False)
class BoostedHead:
    """A trained Booster of the binary logistic objective."""

    booster: Any
    threads: int

    def margin(self, Z: Array) -> Array:
        """(N, F) features, NaN allowed -> (N,) logits, computed in float32."""
        data = xgboost.DMatrix(Z, nthread=self.threads)
        return np.asarray(self.booster.predict(data, output_margin=True), dtype=np.float64)

    def contributions(self, Z: Array) -> tuple[Array, float]:
        """(N, F) features -> each feature's share of the logits (N, F), and what all rows share.

        Exact path-dependent TreeSHAP (Lundberg et al. 2020, Algorithm 2), computed in float32.
        """
        data = xgboost.DMatrix(Z, nthread=self.threads)
        values = np.asarray(self.booster.predict(data, pred_contribs=True), dtype=np.float64)
        return values[:, :-1], float(values[0, -1])

    def to_json(self) -> str:
        """The Booster as XGBoost's JSON text; its binary form crashes the reader when corrupted."""
        return bytes(self.booster.save_raw("json")).decode("utf-8")

    @classmethod
    def from_json(cls, text: str, threads: int) -> BoostedHead:
        """The inverse of :meth:`to_json`, bit for bit."""
        booster = xgboost.Booster({"nthread": threads})
        booster.load_model(bytearray(text, "utf-8"))
        return cls(booster, threads)


def fit_boosted(Z: Array, y: Array, weights: Array, *, n_estimators: int, threads: int,
                seed: int, **tree: float) -> tuple[BoostedHead, int]:
    """Boost ``n_estimators`` trees from the weighted share of positives -> (head, trees).

    ``tree``: XGBoost's own parameters. The trees do not depend on the order of the rows, nor on
    whether a row is repeated or has a larger weight.
    """
    Z, y, weights = _merge(Z, y, weights)
    params = booster_parameters(y, weights, seed, threads) | tree
    data = xgboost.DMatrix(Z, label=y, weight=weights, nthread=threads)
    booster = xgboost.train(params, data, num_boost_round=n_estimators)
    return BoostedHead(booster, threads), n_estimators


def best_tree_count(parts: Iterable[tuple[Labelled, Labelled]], *, n_estimators: int,
                    patience: int, threads: int, seed: int, **tree: float) -> int:
    """How many trees have the least loss on held-out rows, in [1, ``n_estimators``].

    ``parts``: (train, test) of each fold. All folds grow a tree at a time; the loss is the mean
    over folds of the weighted mean log loss of the fold's test rows. Stops once ``patience`` trees
    in a row have not lowered it; of equal losses, the fewest trees.
    """
    require(patience >= 1, f"early_stopping_rounds must be None or at least 1, got {patience}")
    runs = [_FoldRun(train, test, seed, threads, tree) for train, test in parts]
    best, lowest = 0, np.inf
    for trees in range(1, n_estimators + 1):
        loss = float(np.mean([run.grow() for run in runs]))
        if loss < lowest:
            best, lowest = trees, loss
        elif trees - best >= patience:
            break
    return best


class _FoldRun:
    """One fold's Booster, grown a tree at a time; XGBoost caches the margins of both sides."""

    def __init__(self, train: Labelled, test: Labelled, seed: int, threads: int,
                 tree: dict[str, float]) -> None:
        Z, y, weights = _merge(*train)
        self._train = xgboost.DMatrix(Z, label=y, weight=weights, nthread=threads)
        self._test = xgboost.DMatrix(test[0], nthread=threads)
        self._sign, self._weights, self._trees = 1 - 2 * test[1], test[2], 0
        params = booster_parameters(y, weights, seed, threads) | tree
        self._booster = xgboost.Booster(params, [self._train, self._test])

    def grow(self) -> float:
        """Add a tree -> the weighted mean log loss on the test rows."""
        self._booster.update(self._train, self._trees)
        self._trees += 1
        margin = self._booster.predict(self._test, output_margin=True).astype(np.float64)
        return float(np.average(np.logaddexp(0, self._sign * margin), weights=self._weights))


def booster_parameters(y: Array, weights: Array, seed: int, threads: int) -> dict[str, Any]:
    """XGBoost's parameters but those of the trees, for (N,) labels 0 / 1 and their weights."""
    return {"objective": "binary:logistic", "tree_method": "hist", "max_bin": MAX_BIN,
            "verbosity": 0, "seed": seed, "nthread": threads,
            "base_score": float(weights @ y / weights.sum())}


def thread_count(n_jobs: int | None) -> int:
    """XGBoost's ``nthread`` for ``n_jobs``: None is 1, -1 is 0, which means all."""
    require(n_jobs is None or n_jobs == -1 or n_jobs > 0,
            f"n_jobs must be None, -1 or positive, got {n_jobs}")
    return 1 if n_jobs is None else max(n_jobs, 0)


def _merge(Z: Array, y: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Equal (row, label) pairs as one row of their summed weight, in an order of their own.

    XGBoost sums float32 gradients, so k copies and a weight of k round differently.
    """
    rows = np.ascontiguousarray(np.column_stack([Z, y]))
    keys = rows.view(np.dtype((np.void, rows.strides[0]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return Z[first], y[first], np.bincount(inverse, weights=weights).astype(np.float64)
