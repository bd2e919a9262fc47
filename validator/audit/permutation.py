"""Tests by shuffling labels the way chance could have dealt them, problem by problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.audit.correlation import midranks
from validator.errors import ParameterError
from validator.metrics import Resampler, Statistic
from validator.metrics.inputs import as_groups, as_labels
from validator.splits import problem_folds

__all__ = [
    "SCHEMES",
    "blind_folds",
    "bootstrap_p_value",
    "holm",
    "label_aurocs",
    "permutation_p_value",
    "shuffled_labels",
    "within_aurocs",
]

Array = NDArray[np.float64]

SCHEMES = ("problems", "within")
"""``problems``: whole label vectors change places between problems of as many traces, then labels
are shuffled inside each problem. ``within``: inside each problem only."""

_TIE = 1e-12  # equal values that rounding parted count as equal


def shuffled_labels(labels: ArrayLike, problems: Sequence[Any] | NDArray[Any], n: int,
                    scheme: str = "problems", seed: int = 0) -> NDArray[np.int64]:
    """(n, N) draws of the labels under no relation between labels and anything else.

    Traces of one problem share its difficulty, so their labels are not exchangeable with those of
    other problems one by one; the label vectors of problems of equal size are, under ``problems``.
    Under ``within`` every problem keeps its share of valid traces: what is left to a score then is
    which problems are hard. Labels of a problem whose size is unique can only move inside it.

    ``labels``, ``problems`` (N,).
    """
    if scheme not in SCHEMES or n < 1:
        raise ParameterError(f"expected a scheme of {', '.join(SCHEMES)} and n of at least 1, got "
                             f"{scheme!r} and {n}")
    y = as_labels(labels)
    blocks = _equal_problems(problems, y.size)
    rng = np.random.default_rng(seed)
    drawn = np.empty((n, y.size), dtype=np.int64)
    for i in range(n):
        for block in blocks:
            dealt = y[rng.permutation(block) if scheme == "problems" else block]
            drawn[i, block] = rng.permuted(dealt, axis=1)
    return drawn


def _equal_problems(problems: Sequence[Any] | NDArray[Any], n: int) -> list[NDArray[np.int64]]:
    """For each number of traces, the rows of the problems that have as many (problems, traces)."""
    _, index = as_groups(problems, n)
    sizes = np.bincount(index)
    rows = np.split(np.argsort(index, kind="stable"), np.cumsum(sizes)[:-1])
    return [np.stack([rows[p] for p in np.flatnonzero(sizes == s)]) for s in np.unique(sizes)]


def blind_folds(problems: Sequence[Any] | NDArray[Any], n_splits: int, seed: int = 0
                ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Problem-grouped folds that have not seen the labels, as a permutation test needs them.

    Folds stratified by the real labels would fit those better than any shuffled ones. Balanced by
    the row number's parity instead, which balances their size.
    """
    return problem_folds(problems, np.arange(len(problems)) % 2, n_splits, seed)


def permutation_p_value(observed: float, null: ArrayLike) -> float:
    """(1 + draws at least as large) / (1 + draws) (Phipson and Smyth 2010): never zero, exact."""
    draws = np.asarray(null, dtype=np.float64)
    return float((1 + (draws >= observed - _TIE).sum()) / (1 + draws.size))


def bootstrap_p_value(statistic: Statistic, resampler: Resampler, null: float) -> float:
    """Two-sided: the smallest 1 - level whose percentile interval leaves ``null`` out.

    Twice the smaller share of resamples on either side of ``null``, itself included, with one
    added to both counts; resamples without a value are left out. In (0, 1].
    """
    draws = statistic(resampler.counts)
    draws = draws[~np.isnan(draws)]
    side = min(int((draws <= null).sum()), int((draws >= null).sum()))
    return min(1.0, 2 * (1 + side) / (1 + draws.size))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that hold the chance of any false alarm (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    adjusted = np.empty(p.size)
    adjusted[order] = steps
    return [float(a) for a in adjusted]


def label_aurocs(values: Array, labels: NDArray[np.int64]) -> Array:
    """AUROC (B, K) of fixed columns (N, K) under each of the labellings (B, N).

    From rank sums (Mann and Whitney 1947): one matrix product for all of them. Each labelling
    must hold both classes.
    """
    valid = labels.sum(axis=1, keepdims=True).astype(np.float64)
    invalid = labels.shape[1] - valid
    sums = labels.astype(np.float64) @ midranks(values)
    return np.asarray((sums - valid * (valid + 1) / 2) / (valid * invalid))


def within_aurocs(scores: Array, labels: NDArray[np.int64],
                  problems: Sequence[Any] | NDArray[Any]) -> Array:
    """(B,) mean AUROC inside mixed problems, of each row of scores (B, N) under its labels (B, N).

    As :func:`validator.metrics.within_problem_auroc`, for many at once; NaN where no problem is
    mixed.
    """
    total, mixed = np.zeros(len(scores)), np.zeros(len(scores))
    for block in _equal_problems(problems, scores.shape[1]):
        for i, (s, y) in enumerate(zip(scores[:, block], labels[:, block], strict=True)):
            above = np.sign(s[:, :, None] - s[:, None, :]) / 2 + 0.5
            pairs = y[:, :, None] * (1 - y[:, None, :])
            count = pairs.sum(axis=(1, 2))
            value = (above * pairs).sum(axis=(1, 2))[count > 0] / count[count > 0]
            total[i] += value.sum()
            mixed[i] += value.size
    mean: Array = np.full(len(scores), np.nan)
    np.divide(total, mixed, out=mean, where=mixed > 0)
    return mean
