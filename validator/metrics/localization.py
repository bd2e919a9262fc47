"""Where a trace first goes wrong: predictions from the scores of its steps, and their worth.

The truth of a trace is the index of its first invalid step, or :data:`NO_ERROR`; a prediction is
the same. The measures are ProcessBench's (Zheng et al. 2024, arXiv 2412.06559): the accuracy on
traces with an error, the accuracy on traces without, and their harmonic mean, called F1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import LabelError, ScoreError
from validator.metrics.bootstrap import Resampler, Statistic
from validator.metrics.inputs import as_groups, as_labels, as_scores
from validator.metrics.ranking import length_bins, within_problem_values

__all__ = [
    "NO_ERROR",
    "UNKNOWN",
    "accuracy_statistic",
    "best_threshold",
    "f1_statistic",
    "first_below",
    "first_error",
    "harmonic_mean",
    "hits",
    "localization_f1",
    "lowest_steps",
    "matched_weights",
    "random_hits",
    "within_trace_statistic",
]

Array = NDArray[np.float64]
Steps = NDArray[np.int64]

NO_ERROR = -1
"""Every step is valid."""
UNKNOWN = -2
"""The labels do not say where the first error is."""


def first_error(labels: Sequence[int | None]) -> int:
    """Index of the first 0 among the labels (1, 0, None) of a trace's steps, in order.

    :data:`NO_ERROR` if all are 1, :data:`UNKNOWN` if an unlabelled step comes before any 0: it may
    be the first error itself. Labels after the first 0 do not matter. Raises LabelError for none.
    """
    if not labels:
        raise LabelError("a trace without steps has no first error; leave it out")
    for k, label in enumerate(labels):
        if label is None:
            return UNKNOWN
        if label == 0:
            return k
    return NO_ERROR


def lowest_steps(scores: Sequence[ArrayLike]) -> Steps:
    """Index of the lowest score of each trace, the earliest of equal ones. Never NO_ERROR."""
    return np.array([int(np.argmin(_of_trace(s))) for s in scores], dtype=np.int64)


def first_below(scores: Sequence[ArrayLike], thresholds: ArrayLike) -> Steps:
    """Index of each trace's first score below its threshold, NO_ERROR where there is none.

    ``scores``: one array for each of n traces; ``thresholds`` (n,) or one for all.
    """
    cuts = np.broadcast_to(np.asarray(thresholds, dtype=np.float64), (len(scores),))
    below = [np.flatnonzero(_of_trace(s) < cut) for s, cut in zip(scores, cuts, strict=True)]
    return np.array([b[0] if b.size else NO_ERROR for b in below], dtype=np.int64)


def best_threshold(scores: Sequence[ArrayLike], truth: ArrayLike) -> float:
    """The threshold under which :func:`first_below` has the largest F1 on these traces.

    Exact: a trace is right for the thresholds above the score of its first error and up to the
    lowest score before it, so only those bounds can change F1; of equal F1 the lowest threshold is
    taken, half-way between its bounds. Where all traces have an error, or none has, the largest
    accuracy. Scores after the first error are not read.
    Raises LabelError without traces or for an unknown first error.
    """
    where = _as_truth(truth, len(scores))
    bounds = np.array([_right_between(_of_trace(s, e + 1 if e >= 0 else None), int(e))
                       for s, e in zip(scores, where, strict=True)])
    points = np.unique(bounds[np.isfinite(bounds)])
    cuts = np.r_[points[:1], (points[1:] + points[:-1]) / 2, np.inf]
    rates = [_share_right(bounds[chosen], cuts) for chosen in (where >= 0, where == NO_ERROR)
             if chosen.any()]
    return float(cuts[np.argmax(harmonic_mean(rates[0], rates[-1]))])


def hits(predicted: ArrayLike, truth: ArrayLike, tolerance: int = 0) -> Array:
    """(n,) 1.0 where the prediction is right, else 0.0.

    Within ``tolerance`` steps counts as right for an error; no error has to be named exactly.
    """
    where = _as_truth(truth, np.size(predicted))
    p = np.asarray(predicted, dtype=np.int64)
    near = (np.abs(p - where) <= tolerance) & (p >= 0) & (where >= 0)
    return np.asarray(near | (p == where), dtype=np.float64)


def random_hits(sizes: ArrayLike, truth: ArrayLike, tolerance: int = 0, *,
                with_none: bool = False) -> Array:
    """(n,) chance of a hit when each of a trace's ``sizes`` (n,) steps is equally likely.

    ``with_none``: NO_ERROR is one more outcome, as likely as a step.
    """
    n = np.asarray(sizes, dtype=np.int64)
    where = _as_truth(truth, n.size)
    first, last = np.maximum(where - tolerance, 0), np.minimum(where + tolerance, n - 1)
    good = np.where(where >= 0, last - first + 1, int(with_none))
    return np.asarray(good / (n + int(with_none)), dtype=np.float64)


def localization_f1(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Harmonic mean of the accuracies on traces with an error and without, in [0, 1].

    Raises LabelError unless there are both.
    """
    where = _as_truth(truth, np.size(predicted))
    right = hits(predicted, where)
    _require_both(where)
    return float(harmonic_mean(right[where >= 0].mean(), right[where == NO_ERROR].mean()))


def harmonic_mean(a: ArrayLike, b: ArrayLike) -> Array:
    """2ab / (a + b) of numbers that are not negative; 0 where both are 0."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return np.asarray(2 * x * y / np.where(x + y == 0, 1.0, x + y))


def accuracy_statistic(right: ArrayLike, problems: ArrayLike, resampler: Resampler,
                       weights: ArrayLike | None = None) -> Statistic:
    """Weighted mean of ``right`` (n,) over the traces of the drawn problems; NaN without weight.

    ``problems`` (n,): each trace's problem, among those of the resampler.
    """
    value = np.asarray(right, dtype=np.float64)
    index = _problem_index(problems, resampler)
    w = np.ones(value.size) if weights is None else as_scores(weights, value.size, "weights")
    size = resampler.problems.size
    top, bottom = (np.bincount(index, v, minlength=size) for v in (value * w, w))

    def statistic(counts: NDArray[np.int64]) -> Array:
        with np.errstate(invalid="ignore"):
            return np.asarray((counts @ top) / (counts @ bottom), dtype=np.float64)

    return statistic


def f1_statistic(right: ArrayLike, truth: ArrayLike, problems: ArrayLike, resampler: Resampler,
                 weights: ArrayLike | None = None) -> Statistic:
    """F1 over the traces of the drawn problems; NaN where all have an error, or none has.

    ``right`` (n,) as :func:`hits`. Raises LabelError unless there are both on the data themselves.
    """
    value, ids = np.asarray(right, dtype=np.float64), np.asarray(problems)
    where = _as_truth(truth, value.size)
    _require_both(where)
    w = np.ones(value.size) if weights is None else np.asarray(weights, dtype=np.float64)
    invalid, valid = (accuracy_statistic(value[c], ids[c], resampler, w[c])
                      for c in (where >= 0, where == NO_ERROR))
    return lambda counts: harmonic_mean(invalid(counts), valid(counts))


def matched_weights(lengths: ArrayLike, truth: ArrayLike, bins: int = 10) -> Array:
    """(n,) weights under which traces with and without an error are of equal lengths.

    In each quantile bin of ``lengths`` (n,) the rarer of the two kinds weighs 1 a trace, and the
    other as much in total; a bin of one kind weighs nothing. Bins as
    :func:`validator.metrics.ranking.length_bins`. Raises LabelError if no bin holds both.
    """
    where = _as_truth(truth, np.size(lengths))
    b = length_bins(lengths, where.size, bins)
    wrong = where >= 0
    counts = np.array([np.bincount(b[kind], minlength=b.max() + 1) for kind in (~wrong, wrong)])
    own = counts[wrong.astype(np.int64), b]
    weights = counts.min(axis=0)[b] / own
    if not weights.any():
        raise LabelError(f"no length bin of {bins} holds a trace with an error and one without; "
                         "use fewer bins or more traces")
    return np.asarray(weights, dtype=np.float64)


def within_trace_statistic(labels: ArrayLike, scores: ArrayLike, traces: ArrayLike,
                           resampler: Resampler) -> Statistic:
    """Mean AUROC inside the traces, of the drawn problems, that hold valid and invalid steps.

    ``labels``, ``scores``, ``traces`` (N,) in the order of the resampler's ``groups``; every such
    trace counts once. Raises LabelError if no trace holds both.
    """
    y = as_labels(labels)
    index = as_groups(np.asarray(traces), y.size)[1]
    mixed, values = within_problem_values(y, scores, index)
    first = np.unique(index, return_index=True)[1]
    problem = resampler.index[first[mixed]]
    return accuracy_statistic(values, resampler.problems[problem], resampler)


def _right_between(scores: Array, truth: int) -> tuple[float, float]:
    """(low, high]: the thresholds under which a trace is right; low >= high where there is none."""
    if truth == NO_ERROR:
        return -np.inf, float(scores.min())
    return float(scores[truth]), float(scores[:truth].min(initial=np.inf))


def _share_right(bounds: Array, cuts: Array) -> Array:
    """(n, 2) bounds, (m,) thresholds -> (m,) share of the traces that are right."""
    low, high = bounds[bounds[:, 0] < bounds[:, 1]].T
    passed, lost = (np.searchsorted(np.sort(b), cuts, side="left") for b in (low, high))
    return np.asarray((passed - lost) / len(bounds), dtype=np.float64)


def _of_trace(scores: ArrayLike, end: int | None = None) -> Array:
    s = np.asarray(scores, dtype=np.float64)[:end]
    if s.ndim != 1 or s.size == 0 or np.isnan(s).any():
        raise ScoreError("each trace needs one score for each of its steps, and no NaN; leave "
                         "out the traces that were not scored")
    return s


def _as_truth(truth: ArrayLike, n: int) -> Steps:
    where = np.asarray(truth, dtype=np.int64)
    if where.shape != (n,) or n == 0:
        raise LabelError(f"expected the first error of {n} traces, at least one; got shape "
                         f"{where.shape}")
    if where.min() < NO_ERROR:
        raise LabelError("the first error of some traces is not known; leave them out")
    return where


def _require_both(where: Steps) -> None:
    wrong = int((where >= 0).sum())
    if wrong in (0, where.size):
        raise LabelError(f"{wrong} of {where.size} traces have an error; F1 needs traces with one "
                         "and traces without")


def _problem_index(problems: ArrayLike, resampler: Resampler) -> NDArray[np.int64]:
    ids = np.asarray(problems)
    index = np.minimum(np.searchsorted(resampler.problems, ids), resampler.problems.size - 1)
    if not np.array_equal(resampler.problems[index], ids):
        raise LabelError("some traces are of problems that are not resampled; compute both from "
                         "the same traces")
    return index.astype(np.int64)
