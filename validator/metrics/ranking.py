"""How well a score ranks valid traces above invalid ones: pooled, within problems, within lengths.

Pooled AUROC rewards a score for telling easy problems from hard ones, and long answers from short
ones; the within-problem and length-matched forms compare only like with like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import LabelError, ParameterError, ScoreError
from validator.metrics.inputs import as_groups, as_labels, as_scores, require_both_classes

__all__ = [
    "WeightedRanking",
    "auprc",
    "auroc",
    "length_bins",
    "length_matched_auroc",
    "within_problem_auroc",
    "within_problem_values",
]


class WeightedRanking:
    """Scores sorted once, so that the AUROC under many row weightings is a few array passes.

    The Mann-Whitney form (Hanley and McNeil 1982): the share of (valid, invalid) pairs in which
    the valid row has the higher score, a tie counting half; a row of weight w counts w times.
    """

    def __init__(self, labels: NDArray[np.int64], scores: NDArray[np.float64]) -> None:
        self.order = np.argsort(scores, kind="stable")
        ranked = scores[self.order]
        self._starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
        self._valid = labels[self.order] == 1

    def pairs(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64],
                                                           NDArray[np.float64]]:
        """(B, N) non-negative row weights -> concordant pairs (B,), all pairs (B,).

        Exact for integer weights: every sum is a multiple of one half below 2**53.
        """
        ranked = weights[:, self.order]
        valid = np.add.reduceat(np.where(self._valid, ranked, 0.0), self._starts, axis=1)
        invalid = np.add.reduceat(np.where(self._valid, 0.0, ranked), self._starts, axis=1)
        below = np.cumsum(invalid, axis=1) - invalid
        concordant = (valid * (below + 0.5 * invalid)).sum(axis=1)
        return concordant, valid.sum(axis=1) * invalid.sum(axis=1)


def auroc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Area under the ROC curve, in [0, 1]; tied scores count half.

    ``labels`` (N,) 0 / 1, ``scores`` (N,), ``weights`` (N,) non-negative, default one each.
    Raises LabelError if only one class has weight, ScoreError for a NaN or negative weight.
    """
    y = as_labels(labels)
    w = np.ones(y.size) if weights is None else as_scores(weights, y.size, "weights")
    if w.min() < 0 or not np.isfinite(w).all():
        raise ScoreError("weights must be finite and not negative")
    s = as_scores(scores, y.size)
    require_both_classes(y[w > 0] if (w > 0).any() else y[:0])
    concordant, pairs = WeightedRanking(y, s).pairs(w[None, :])
    return float(concordant[0] / pairs[0])


def auprc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision for the valid class, in (0, 1]: the sum of precision x recall step.

    Tied scores enter together; no interpolation (Davis and Goadrich 2006 show why).
    ``labels``, ``scores`` (N,). Raises LabelError if only one class is present.
    """
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    require_both_classes(y)
    order = np.argsort(-s, kind="stable")
    last = np.flatnonzero(np.r_[s[order][1:] != s[order][:-1], True])
    hits = np.cumsum(y[order])[last]
    return float(np.sum(np.diff(hits, prepend=0) * hits / (last + 1)) / y.sum())


def within_problem_values(labels: ArrayLike, scores: ArrayLike, groups: Sequence[Any] | NDArray[Any]
                          ) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """AUROC inside each problem that holds both classes -> (sorted ids (M,), values (M,)).

    Raises LabelError if no problem holds both classes.
    """
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    problems, index = as_groups(groups, y.size)
    valid, total = np.bincount(index, weights=y), np.bincount(index)
    mixed = np.flatnonzero((valid > 0) & (valid < total))
    if mixed.size == 0:
        raise LabelError(f"none of {problems.size} problems holds a valid and an invalid trace; "
                         "sample several answers per problem")
    rows = np.split(np.argsort(index, kind="stable"), np.cumsum(total)[:-1])
    values = [auroc(y[rows[g]], s[rows[g]]) for g in mixed]
    return problems[mixed], np.array(values)


def within_problem_auroc(labels: ArrayLike, scores: ArrayLike,
                         groups: Sequence[Any] | NDArray[Any]) -> float:
    """Mean over problems that hold both classes of the AUROC inside the problem, in [0, 1].

    Each such problem counts once, however many traces it has; the others cannot count.
    ``labels``, ``scores``, ``groups`` (N,). Raises LabelError if no problem holds both classes.
    """
    return float(within_problem_values(labels, scores, groups)[1].mean())


def length_matched_auroc(labels: ArrayLike, scores: ArrayLike, lengths: ArrayLike,
                         bins: int = 10) -> float:
    """AUROC over the (valid, invalid) pairs whose lengths fall in the same bin, in [0, 1].

    The bins are quantile intervals of ``lengths`` (N,), closed on the left: edge k = 1..bins-1 is
    the length of rank floor(k N / bins), counted from 0, and equal edges are merged. Every pair
    counts once, so a bin weighs as much as it has pairs.
    Raises LabelError if no bin holds both classes.
    """
    if bins < 1:
        raise ParameterError(f"bins must be at least 1, got {bins}")
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    size = as_scores(lengths, y.size, "lengths")
    if not np.isfinite(size).all():
        raise ScoreError("lengths must be finite")
    edges = np.unique(np.sort(size)[np.arange(1, bins) * y.size // bins])
    where = np.searchsorted(edges, size, side="right")
    counted = [
        WeightedRanking(y[where == b], s[where == b]).pairs(np.ones((1, (where == b).sum())))
        for b in np.unique(where)
    ]
    concordant, pairs = (float(sum(part[i][0] for part in counted)) for i in (0, 1))
    if pairs == 0:
        raise LabelError(f"no length bin of {bins} holds a valid and an invalid trace; "
                         "use fewer bins or more traces")
    return concordant / pairs


def length_bins(lengths: ArrayLike, n: int, bins: int) -> NDArray[np.int64]:
    """(N,) index of the quantile interval, closed on the left, that each length falls in."""
    if bins < 1:
        raise ParameterError(f"bins must be at least 1, got {bins}")
    size = as_scores(lengths, n, "lengths")
    if not np.isfinite(size).all():
        raise ScoreError("lengths must be finite")
    edges = np.unique(np.quantile(size, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, size, side="right").astype(np.int64)
