"""AUROC among traces of one length, or of one source: like compared with like, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics import Resampler, Statistic
from validator.metrics.inputs import as_labels, as_scores
from validator.metrics.ranking import WeightedRanking

__all__ = ["Strata", "length_pair_auroc", "length_pairs", "source_strata", "strata_statistic"]

Strata = Sequence[tuple[NDArray[np.int64], float]]
"""(rows, weight): each (valid, invalid) pair of the rows counts ``weight``."""

CALIPER = 0.1
"""Matched lengths differ by at most a tenth of the valid trace's."""

_BLOCK = 64  # resamples whose row weights are in memory at once


def length_pairs(labels: ArrayLike, lengths: ArrayLike, caliper: float = CALIPER) -> Strata:
    """The valid traces of each length, beside the invalid traces of the nearest length.

    A valid trace of length L is matched with the invalid traces at the least |L' - L|, with all of
    them where several tie, on either side; with none if that distance exceeds ``caliper`` * L.
    Invalid traces can be matched more than once. Each pair weighs one over the number of
    traces its valid trace is matched with, so that every matched valid trace counts once.
    ``labels``, ``lengths`` (N,).
    """
    if caliper < 0:
        raise ParameterError(f"caliper must not be negative, got {caliper}")
    y = as_labels(labels)
    size = as_scores(lengths, y.size, "lengths")
    if not np.isfinite(size).all() or size.min() < 0:
        raise ScoreError("lengths must be finite and not negative")
    invalid = np.flatnonzero(y == 0)
    known = np.unique(size[invalid])
    strata = []
    for length in np.unique(size[y == 1]):
        distance = np.abs(known - length)
        if known.size == 0 or distance.min() > caliper * length:
            continue
        nearest = known[distance == distance.min()]
        matched = invalid[np.isin(size[invalid], nearest)]
        valid = np.flatnonzero((y == 1) & (size == length))
        strata.append((np.r_[valid, matched], 1.0 / matched.size))
    return strata


def source_strata(labels: ArrayLike, sources: Sequence[Any] | NDArray[Any]) -> Strata:
    """The rows of each source that wrote valid and invalid traces; every pair counts once."""
    y, who = as_labels(labels), np.asarray(sources)
    rows = [np.flatnonzero(who == s) for s in np.unique(who)]
    return [(r, 1.0) for r in rows if 0 < y[r].sum() < r.size]


def strata_statistic(labels: ArrayLike, scores: ArrayLike, strata: Strata,
                     resampler: Resampler) -> Statistic:
    """AUROC over the weighted pairs of ``strata``, rows repeated as their problem was drawn.

    The pairs are those of the data as a whole; a pair is there as often as both its problems.
    NaN for a draw without a pair.
    """
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    parts = [(WeightedRanking(y[rows], s[rows]), resampler.index[rows], weight)
             for rows, weight in strata]

    def block(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        top, bottom = np.zeros(len(counts)), np.zeros(len(counts))
        for ranking, index, weight in parts:
            concordant, pairs = ranking.pairs(counts[:, index].astype(np.float64))
            top += weight * concordant
            bottom += weight * pairs
        ratio: NDArray[np.float64] = np.full(len(counts), np.nan)
        np.divide(top, bottom, out=ratio, where=bottom > 0)
        return ratio

    return lambda counts: np.concatenate(
        [block(counts[i:i + _BLOCK]) for i in range(0, len(counts), _BLOCK)])


def length_pair_auroc(labels: ArrayLike, scores: ArrayLike, lengths: ArrayLike,
                      caliper: float = CALIPER) -> float:
    """Chance that a valid trace scores above the invalid trace of nearest length, in [0, 1].

    The mean over matched valid traces (:func:`length_pairs`) of the share of their matches that
    score lower, a tie counting half. ``labels``, ``scores``, ``lengths`` (N,).
    Raises LabelError if no valid trace has a match.
    """
    y = as_labels(labels)
    strata = length_pairs(y, lengths, caliper)
    if not strata:
        raise LabelError(f"no valid trace has an invalid one within {100 * caliper:g}% of its "
                         "length; widen the caliper")
    one_each = Resampler(np.arange(y.size), 1)
    value = strata_statistic(y, scores, strata, one_each)(np.ones((1, y.size), dtype=np.int64))
    return float(value[0])
