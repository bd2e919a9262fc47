"""Confidence intervals by resampling whole problems, shared between the scores compared.

Traces of one problem are not independent, so the problem is the unit drawn (Field and Welsh 2007).
A statistic is a function of how often each problem was drawn; one :class:`Resampler` holds those
counts, so a difference of two scores is paired by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics.inputs import as_groups, as_labels, as_scores, require_both_classes
from validator.metrics.ranking import WeightedRanking, length_bins, within_problem_values
from validator.metrics.selection import PerProblem

__all__ = [
    "Interval",
    "Resampler",
    "Statistic",
    "auroc_statistic",
    "clustered_interval",
    "length_matched_statistic",
    "mean_statistic",
    "paired_difference",
    "row_statistic",
    "stratified_statistic",
    "within_problem_statistic",
]

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Counts of each problem (B, P) -> values (B,); NaN where a draw leaves it undefined."""

MAX_UNDEFINED = 0.05
"""Above this share of undefined resamples the percentiles describe another population."""

_BLOCK = 64  # resamples whose row weights are in memory at once: 64 x 3,600 doubles fit the cache


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its percentile bootstrap interval."""

    estimate: float
    low: float
    high: float
    undefined: int = 0
    """Resamples without a value (one class only), left out of the percentiles."""


class Resampler:
    """``n_resamples`` draws of P problems with replacement from the P problems of ``groups`` (N,).

    ``problems`` (P,) sorted ids; ``index`` (N,) each row's problem; ``counts`` (B, P) how often
    each problem was drawn, rows summing to P. The same seed gives the same counts.
    """

    def __init__(self, groups: Sequence[Any] | NDArray[Any], n_resamples: int = 1000,
                 seed: int = 0) -> None:
        if n_resamples < 1:
            raise ParameterError(f"n_resamples must be at least 1, got {n_resamples}")
        self.problems, self.index = as_groups(groups, len(groups))
        p = self.problems.size
        if p < 2:
            raise LabelError(f"{p} problem has no spread to resample: traces of two problems or "
                             "more are needed for an interval")
        rng = np.random.default_rng(seed)
        self.counts: NDArray[np.int64] = rng.multinomial(p, np.full(p, 1 / p), size=n_resamples)


def clustered_interval(statistic: Statistic, resampler: Resampler, level: float = 0.95) -> Interval:
    """Percentile interval (Efron and Tibshirani 1993, ch. 13) of ``statistic`` over problems.

    A resample that holds one class only has no AUROC: it is left out, which is the same as drawing
    again, and counted in ``Interval.undefined``. Raises LabelError where the statistic is undefined
    on the data themselves or on more than 5% of the resamples.
    """
    if not 0 < level < 1:
        raise ParameterError(f"level must lie in (0, 1), got {level}")
    estimate = float(statistic(np.ones((1, resampler.problems.size), dtype=np.int64))[0])
    draws = statistic(resampler.counts)
    undefined = int(np.isnan(draws).sum())
    if np.isnan(estimate) or undefined > MAX_UNDEFINED * draws.size:
        raise LabelError(f"{undefined} of {draws.size} resamples of {resampler.problems.size} "
                         "problems hold too few classes for a value; label more problems")
    low, high = np.quantile(draws[~np.isnan(draws)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), undefined)


def paired_difference(a: Statistic, b: Statistic, resampler: Resampler,
                      level: float = 0.95) -> Interval:
    """Interval of a - b on the same resamples; above zero means ``a`` is better by that much."""
    return clustered_interval(lambda counts: a(counts) - b(counts), resampler, level)


def auroc_statistic(labels: ArrayLike, scores: ArrayLike, resampler: Resampler) -> Statistic:
    """Pooled AUROC of rows repeated as often as their problem was drawn; NaN for one class.

    ``labels``, ``scores`` (N,) in the order of the resampler's ``groups``.
    """
    y = as_labels(labels)
    _require_rows(y.size, resampler)
    require_both_classes(y)
    ranking = WeightedRanking(y, as_scores(scores, y.size))

    def block(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        concordant, pairs = ranking.pairs(counts[:, resampler.index].astype(np.float64))
        return _ratio(concordant, pairs)

    return lambda counts: np.concatenate(
        [block(counts[i:i + _BLOCK]) for i in range(0, len(counts), _BLOCK)]
    )


def length_matched_statistic(labels: ArrayLike, scores: ArrayLike, lengths: ArrayLike,
                             resampler: Resampler, bins: int = 10) -> Statistic:
    """AUROC over pairs in the same length bin; the bins are those of the data as a whole.

    As :func:`length_matched_auroc`, whose bins on a resample would be the resample's own.
    """
    return stratified_statistic(
        labels, scores, length_bins(lengths, np.size(labels), bins), resampler)


def stratified_statistic(labels: ArrayLike, scores: ArrayLike, strata: ArrayLike,
                         resampler: Resampler) -> Statistic:
    """AUROC over the (valid, invalid) pairs of the same stratum, e.g. of one source model.

    Every pair counts once, so a stratum weighs as much as it has pairs; NaN without any.
    ``labels``, ``scores``, ``strata`` (N,) in the order of the resampler's ``groups``.
    """
    y = as_labels(labels)
    _require_rows(y.size, resampler)
    s, where = as_scores(scores, y.size), as_groups(np.asarray(strata), y.size)[1]
    parts = [(WeightedRanking(y[rows], s[rows]), resampler.index[rows])
             for b in np.unique(where) for rows in [np.flatnonzero(where == b)]]

    def block(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        sums = [ranking.pairs(counts[:, index].astype(np.float64)) for ranking, index in parts]
        return _ratio(np.sum([c for c, _ in sums], axis=0), np.sum([p for _, p in sums], axis=0))

    return lambda counts: np.concatenate(
        [block(counts[i:i + _BLOCK]) for i in range(0, len(counts), _BLOCK)]
    )


def within_problem_statistic(labels: ArrayLike, scores: ArrayLike,
                             resampler: Resampler) -> Statistic:
    """Mean AUROC over the drawn problems that hold both classes; NaN if none was drawn."""
    y = as_labels(labels)
    _require_rows(y.size, resampler)
    mixed, values = within_problem_values(y, scores, resampler.problems[resampler.index])
    where = np.searchsorted(resampler.problems, mixed)
    return lambda counts: _ratio(counts[:, where] @ values, counts[:, where].sum(axis=1))


def mean_statistic(per_problem: PerProblem, resampler: Resampler) -> Statistic:
    """Mean over the drawn problems of one value each, e.g. of :func:`best_of_n`."""
    if not np.array_equal(per_problem.problems, resampler.problems):
        raise LabelError("the values are of other problems than those resampled; compute both from "
                         "the same traces")
    return lambda counts: _ratio(counts @ per_problem.values, counts.sum(axis=1))


def row_statistic(metric: Callable[[NDArray[np.int64]], float], resampler: Resampler) -> Statistic:
    """Any metric of rows, e.g. ``lambda rows: ece(y[rows], p[rows])``; a LabelError is undefined.

    Calls ``metric`` once per resample with the drawn rows, repeated: slow, but for any metric that
    does not itself look at problems (a problem drawn twice would be one problem with twice the
    rows).
    """
    def value(count: NDArray[np.int64]) -> float:
        try:
            return metric(np.repeat(np.arange(resampler.index.size), count[resampler.index]))
        except LabelError:
            return float("nan")

    return lambda counts: np.array([value(count) for count in counts])


def _require_rows(n: int, resampler: Resampler) -> None:
    if n != resampler.index.size:
        raise ScoreError(f"the resampler was made for {resampler.index.size} traces, got {n}")


def _ratio(top: NDArray[Any], bottom: NDArray[Any]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=ratio, where=bottom > 0)
    return ratio
