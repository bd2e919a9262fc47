"""Gradient-boosted trees on XGBoost's own Booster, which takes a NaN as a direction of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

__all__ = ["BoostedHead", "fit_boosted"]

Array = NDArray[np.float64]

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
    params = {"objective": "binary:logistic", "tree_method": "hist", "max_bin": MAX_BIN,
              "verbosity": 0, "seed": seed, "nthread": threads,
              "base_score": float(weights @ y / weights.sum()), **tree}
    data = xgboost.DMatrix(Z, label=y, weight=weights, nthread=threads)
    booster = xgboost.train(params, data, num_boost_round=n_estimators)
    return BoostedHead(booster, threads), n_estimators


def _merge(Z: Array, y: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Equal (row, label) pairs as one row of their summed weight, in an order of their own.

    XGBoost sums float32 gradients, so k copies and a weight of k round differently.
    """
    rows = np.ascontiguousarray(np.column_stack([Z, y]))
    keys = rows.view(np.dtype((np.void, rows.strides[0]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return Z[first], y[first], np.bincount(inverse, weights=weights).astype(np.float64)
