"""How far valid and invalid traces lie apart on a column, and whether that could be chance.

The tests come in two kinds: the textbook's, which take every trace as independent, and those whose
unit is the problem. Where problems have several traces each, only the second keep their level.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import FeatureMismatchError, LabelError, ScoreError
from validator.metrics.bootstrap import Resampler, Statistic
from validator.metrics.inputs import as_groups, as_labels, as_scores, require_both_classes

__all__ = [
    "EffectTable",
    "benjamini_hochberg",
    "cohens_d",
    "cohens_d_statistic",
    "effect_table",
    "hedges_g",
    "mann_whitney_p",
    "midranks",
]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

_BLOCK = 512  # columns worked on at once: with 1,200 rows, 5 MB for each array


@dataclass(frozen=True)
class EffectTable:
    """One entry for each of F columns; NaN only where :attr:`reasons` says why."""

    names: tuple[str, ...]
    n_valid: Labels
    """(F,) valid traces on which the column is defined."""
    n_invalid: Labels
    """(F,) invalid traces on which it is."""
    d: Array
    """(F,) Cohen's d; above 0 where valid traces have the larger values."""
    auroc: Array
    """(F,) in [0, 1]."""
    p: Array
    """(F,) Mann-Whitney U test, two-sided; takes traces as independent."""
    p_adjusted: Array
    """(F,) the same after Benjamini and Hochberg, over the columns that have one."""
    p_clustered: Array
    """(F,) the same U with the variance of sums over problems, two-sided."""
    p_clustered_adjusted: Array
    """(F,)"""
    reasons: tuple[str, ...]
    """(F,) "" or why a number is missing: ``too-few`` defined traces (a class absent, or found in
    one problem only), ``constant`` within both classes, so that d has no unit."""


def cohens_d(labels: ArrayLike, scores: ArrayLike) -> float:
    """(mean of valid - mean of invalid) / pooled standard deviation (Cohen 1988, eq. 2.5.1-2).

    ``labels`` (N,), ``scores`` (N,) finite, N > 2. Raises LabelError for one class only, ScoreError
    where both classes are constant.
    """
    y, s = _finite_scores(labels, scores)
    d = _column_d(y, s[None, :])[0]
    if np.isnan(d):
        raise ScoreError("the scores are constant within both classes: there is no standard "
                         "deviation to measure their difference by")
    return float(d)


def hedges_g(labels: ArrayLike, scores: ArrayLike) -> float:
    """Cohen's d times J(N - 2), which makes it unbiased for normal scores (Hedges 1981, eq. 6e).

    J(m) = Gamma(m/2) / (sqrt(m/2) Gamma((m-1)/2)). As :func:`cohens_d`, with N > 3.
    """
    m = np.size(labels) - 2
    if m < 2:
        raise LabelError(f"Hedges' correction needs four traces or more, got {m + 2}")
    log_j = math.lgamma(m / 2) - math.lgamma((m - 1) / 2) - 0.5 * math.log(m / 2)
    return cohens_d(labels, scores) * math.exp(log_j)


def cohens_d_statistic(labels: ArrayLike, scores: ArrayLike, resampler: Resampler) -> Statistic:
    """Cohen's d of rows repeated as often as their problem was drawn, for a clustered interval.

    NaN for draws of one class, of two rows, or without spread inside the classes.
    """
    y, s = _finite_scores(labels, scores)
    if y.size != resampler.index.size:
        raise ScoreError(f"the resampler was made for {resampler.index.size} traces, got {y.size}")
    s = (s - s.mean()) / (np.ptp(s) or 1.0)  # d does not change, and sums of squares stay accurate
    sums = np.array([np.bincount(resampler.index[y == c], s[y == c] ** power,
                                 minlength=resampler.problems.size)
                     for c in (0, 1) for power in (0, 1, 2)])

    def value(counts: NDArray[np.int64]) -> Array:
        n0, a0, b0, n1, a1, b1 = (counts @ sums.T).T
        with np.errstate(divide="ignore", invalid="ignore"):
            squares = (b0 - a0**2 / n0) + (b1 - a1**2 / n1)
            d = (a1 / n1 - a0 / n0) / np.sqrt(squares / (n0 + n1 - 2))
        # what is left of a zero after rounding is not a spread
        usable = (n0 > 0) & (n1 > 0) & (n0 + n1 > 2) & (squares > 1e-12 * (b0 + b1))
        return np.where(usable, d, np.nan)

    return value


def mann_whitney_p(labels: ArrayLike, scores: ArrayLike) -> float:
    """Two-sided p-value of the U test (Mann and Whitney 1947), in its normal approximation.

    Corrected for ties and continuity. It takes every trace as independent. Traces of one problem
    are not, and then it rejects too often: see :func:`validator.metrics.permutation_p`.
    ``labels``, ``scores`` (N,).
    """
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    require_both_classes(y)
    ranks, ties = midranks(s[None, :])
    return float(_u_test(y, ranks, ties)[1][0])


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    """(F,) adjusted p-values: rejecting those up to q keeps the FDR at q (1995; Yekutieli 1999).

    ``p_values`` (F,) in [0, 1], independent or positively dependent; NaN stays NaN and is no test.
    """
    p = np.asarray(p_values, dtype=np.float64)
    tested = ~np.isnan(p)
    if p.ndim != 1 or (p[tested] < 0).any() or (p[tested] > 1).any():
        raise ScoreError("expected p-values of shape (F,) in [0, 1]")
    order = np.flatnonzero(tested)[np.argsort(p[tested], kind="stable")]
    raised = p[order] * order.size / np.arange(1, order.size + 1)
    adjusted = np.full(p.size, np.nan)
    adjusted[order] = np.minimum(np.minimum.accumulate(raised[::-1])[::-1], 1.0)
    return adjusted


def effect_table(X: NDArray[np.floating], names: Sequence[str], labels: ArrayLike,
                 groups: Sequence[Any] | NDArray[Any]) -> EffectTable:
    """Effect size and tests of every column of X (N, F), each on the rows where it is not NaN.

    ``p`` and ``p_adjusted`` are Mann and Whitney's and treat traces as independent: for problems
    with several traces each they are too small, by orders of magnitude where traces of one problem
    resemble each other. ``p_clustered`` is the generalised score test on the same ranks (Boos 1992,
    with the sandwich of Liang and Zeger 1986): with T_g the sum over the traces of problem g of
    (label - mean label)(rank - mean rank), z = sum T_g / sqrt(sum T_g^2), against a standard normal
    distribution; it wants 40 problems or more.

    Args:
        X: float32 or float64, no infinities.
        names: (F,) of the columns.
        labels: (N,) 0 / 1.
        groups: (N,) problem ids.

    Raises:
        FeatureMismatchError: X, names and labels do not fit together.
        ScoreError: an infinite value.
        LabelError: one class only.
    """
    y = as_labels(labels)
    require_both_classes(y)
    index = as_groups(groups, y.size)[1]
    if X.ndim != 2 or X.shape != (y.size, len(names)):
        raise FeatureMismatchError(f"expected features ({y.size}, {len(names)}) for {y.size} "
                                   f"labels and {len(names)} names, got {X.shape}")
    numbers = np.full((6, len(names)), np.nan)
    numbers[:2] = 0
    reasons = np.full(len(names), "", dtype="U8")
    for columns, rows in _blocks(X, names):
        defined = y[rows]
        numbers[:2, columns] = [[defined.sum()], [(1 - defined).sum()]]
        if _too_few(defined, index[rows]):
            reasons[columns] = "too-few"
            continue
        values = np.ascontiguousarray(X[np.ix_(rows, columns)].T)
        numbers[2:, columns] = _effects(defined, values, index[rows])
        reasons[columns[np.isnan(numbers[2, columns])]] = "constant"
    valid, invalid, d, auroc, p, clustered = numbers
    return EffectTable(tuple(names), valid.astype(np.int64), invalid.astype(np.int64), d, auroc, p,
                       benjamini_hochberg(p), clustered, benjamini_hochberg(clustered),
                       tuple(reasons.tolist()))


def midranks(values: NDArray[np.floating]) -> tuple[Array, Array]:
    """Rows of values (F, N) -> ranks 1..N, ties sharing their mean (F, N); sums of t^3 - t (F,).

    ``t`` are the sizes of the ties. Exact: ranks are multiples of one half.
    """
    f, n = values.shape
    order = np.argsort(values, axis=1)
    ranked = np.take_along_axis(values, order, axis=1)
    first = np.column_stack([np.ones(f, np.bool_), ranked[:, 1:] != ranked[:, :-1]])
    starts = np.flatnonzero(first)
    sizes = np.diff(starts, append=f * n)
    ranks = np.empty((f, n))
    mid = np.repeat(starts % n + (sizes + 1) / 2, sizes).reshape(f, n)
    np.put_along_axis(ranks, order, mid, axis=1)
    cubes = sizes.astype(np.float64) ** 3 - sizes
    ties: Array = np.bincount(starts // n, weights=cubes, minlength=f).astype(np.float64)
    return ranks, ties


def _effects(y: Labels, values: NDArray[np.floating], index: Labels) -> Array:
    """(4, F) d, AUROC, U test p, clustered p for the rows of values (F, N)."""
    ranks, ties = midranks(values)
    u, p = _u_test(y, ranks, ties)
    return np.stack([_column_d(y, values.astype(np.float64)), u / (y.sum() * (1 - y).sum()), p,
                     _clustered_p(y, ranks, index)])


def _u_test(y: Labels, ranks: Array, ties: Array) -> tuple[Array, Array]:
    """U of the valid class (F,) and its two-sided p-value (F,); 1 where all values are equal."""
    n, n1 = y.size, int(y.sum())
    n0 = n - n1
    u = ranks[:, y == 1].sum(axis=1) - n1 * (n1 + 1) / 2
    sd = np.sqrt(n1 * n0 / 12 * (n + 1 - ties / (n * (n - 1))))
    distance = np.maximum(np.abs(u - n1 * n0 / 2) - 0.5, 0.0)
    return u, _two_sided(distance, sd)


def _clustered_p(y: Labels, ranks: Array, index: Labels) -> Array:
    signed = (ranks - (y.size + 1) / 2) * (y - y.mean())
    member = np.zeros((y.size, int(index.max()) + 1))
    member[np.arange(y.size), index] = 1.0
    sums = signed @ member
    return _two_sided(np.abs(sums.sum(axis=1)), np.sqrt((sums**2).sum(axis=1)))


def _two_sided(distance: Array, sd: Array) -> Array:
    z = np.divide(distance, sd, out=np.zeros_like(distance), where=sd > 0)
    return np.array([math.erfc(value / math.sqrt(2)) for value in z.tolist()])


def _column_d(y: Labels, values: Array) -> Array:
    """(F,) Cohen's d for the rows of values (F, N); NaN where both classes are constant."""
    valid, invalid = values[:, y == 1], values[:, y == 0]
    squares = sum((part.shape[1] * part.var(axis=1) for part in (valid, invalid)),
                  np.zeros(len(values)))
    sd = np.sqrt(squares / (y.size - 2))
    spread = (np.ptp(valid, axis=1) > 0) | (np.ptp(invalid, axis=1) > 0)  # exact, unlike sd > 0
    d: Array = np.full(len(values), np.nan)
    np.divide(valid.mean(axis=1) - invalid.mean(axis=1), sd, out=d, where=spread)
    return d


def _blocks(X: NDArray[np.floating], names: Sequence[str]) -> Iterator[tuple[Labels, Labels]]:
    """(columns, rows) such that the columns are defined on exactly these rows."""
    infinite = np.flatnonzero(np.isinf(X).any(axis=0))
    if infinite.size:
        raise ScoreError(f"{infinite.size} columns hold an infinity, first: "
                         f"{names[infinite[0]]!r}; a value is finite, or NaN where undefined")
    gaps = np.packbits(np.isnan(X), axis=0)
    patterns: dict[bytes, list[int]] = {}
    for column in range(X.shape[1]):
        patterns.setdefault(gaps[:, column].tobytes(), []).append(column)
    for found in patterns.values():
        rows = np.flatnonzero(~np.isnan(X[:, found[0]]))
        for i in range(0, len(found), _BLOCK):
            yield np.array(found[i:i + _BLOCK]), rows


def _too_few(y: Labels, index: Labels) -> bool:
    return y.size < 3 or any(np.unique(index[y == c]).size < 2 for c in (0, 1))


def _finite_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[Labels, Array]:
    y = as_labels(labels)
    s = as_scores(scores, y.size)
    require_both_classes(y)
    if y.size < 3 or not np.isfinite(s).all():
        raise ScoreError("an effect size needs three finite scores or more")
    return y, s
