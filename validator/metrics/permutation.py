"""Exact tests by permuting labels in ways that keep what problems have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import LabelError, ParameterError
from validator.metrics.effects import midranks
from validator.metrics.inputs import as_groups, as_labels, as_scores, require_both_classes

__all__ = ["permutation_p"]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
SCHEMES = ("within", "between", "nested")


def permutation_p(labels: ArrayLike, scores: ArrayLike, groups: Sequence[Any] | NDArray[Any],
                  scheme: Literal["within", "between", "nested"] = "nested", *,
                  alternative: Literal["two-sided", "greater"] = "two-sided",
                  n: int = 1999, seed: int = 0) -> float:
    """p-value of "the scores say nothing about the labels", by ``n`` random permutations.

    - ``within``: the labels of one problem are exchanged. Do the scores say which of a problem's
      traces are valid? Statistic: within-problem AUROC.
    - ``between``: all labels of a problem, in row order, are exchanged with those of another
      problem of as many traces. Do the scores say anything of either kind? Pooled AUROC.
    - ``nested``: within problems that hold both classes; the one label of the others, between those
      of as many traces. Do the scores say which traces of mixed problems are valid, or which of the
      unanimous problems are? Pooled AUROC.

    Labels move between problems of equal numbers of traces only, so that the number of valid
    traces, and with it the reference distribution, stays what it is; a problem that has no match
    keeps its labels. Each scheme's permutations form a group, so p = (1 + number of permuted
    statistics at least as extreme) / (1 + n) is exact under its hypothesis (Phipson and Smyth 2010,
    eq. 2): for ``within``, that a problem's traces are exchangeable given their scores; for
    ``between``, that problems are, as wholes. Two-sided means far from the mean of all 1 + n
    statistics, which need not be 0.5: a pooled AUROC keeps the part that is problem difficulty.

    Args:
        labels: (N,) 0 / 1.
        scores: (N,), infinities allowed.
        groups: (N,) problem ids.
        scheme: see above.
        alternative: ``greater`` counts high AUROCs only.
        n: permutations; the smallest p-value is 1 / (1 + n).
        seed: of the permutations.

    Raises:
        LabelError: no permutation of the scheme changes the labels.
    """
    if scheme not in SCHEMES or alternative not in ("two-sided", "greater") or n < 1:
        raise ParameterError(f"expected scheme in {SCHEMES}, alternative 'two-sided' or 'greater' "
                             f"and n >= 1, got {scheme!r}, {alternative!r}, {n}")
    y = as_labels(labels)
    require_both_classes(y)
    s, index = as_scores(scores, y.size), as_groups(groups, y.size)[1]
    permuted = _permuted(y, *_units(y, index, scheme), n, seed)
    if (permuted == y).all():
        raise LabelError(f"no permutation {scheme} problems changes a label; sample several "
                         "answers per problem, or as many for each, or use another scheme")
    weights = _within_weights(y, s, index) if scheme == "within" else _pooled_weights(y, s)
    values = np.concatenate([[y @ weights], permuted @ weights])
    if alternative == "two-sided":
        values = np.abs(values - values.mean())
    # sums in another order: equal statistics may differ in the last digits
    return float(np.mean(values >= values[0] - 1e-10))


def _pooled_weights(y: Labels, s: Array) -> Array:
    """(N,) w such that the sum of w over the valid traces is the AUROC plus a constant."""
    valid = int(y.sum())
    weights: Array = midranks(s[None, :])[0][0] / (valid * (y.size - valid))
    return weights


def _within_weights(y: Labels, s: Array, index: Labels) -> Array:
    """The same for the mean AUROC over problems that hold both classes; 0 elsewhere."""
    weights = np.zeros(y.size)
    mixed = 0
    for problem in range(int(index.max()) + 1):
        rows = np.flatnonzero(index == problem)
        if 0 < y[rows].sum() < rows.size:
            weights[rows] = _pooled_weights(y[rows], s[rows])
            mixed += 1
    return weights / max(mixed, 1)


def _units(y: Labels, index: Labels, scheme: str) -> tuple[Labels, Labels]:
    """The unit (N,) that each row's label moves with, and the stratum (U,) a unit stays in."""
    sizes = np.bincount(index)
    valid = np.bincount(index, weights=y)
    alone = {"within": np.ones(sizes.size, np.bool_), "between": np.zeros(sizes.size, np.bool_),
             "nested": (valid > 0) & (valid < sizes)}[scheme]
    moves_alone = alone[index]
    names = np.where(moves_alone, sizes.size + np.arange(y.size), index)
    first, unit = np.unique(names, return_index=True, return_inverse=True)[1:]
    # rows stay in their problem; problems among those of their size
    stratum = np.where(moves_alone, index, sizes.size + sizes[index])[first]
    return unit, stratum


def _permuted(y: Labels, unit: Labels, stratum: Labels, n: int, seed: int) -> Labels:
    """(n, N) labels after exchanging units, which have equal sizes, inside their strata."""
    order = np.argsort(unit, kind="stable")
    starts = np.flatnonzero(np.diff(unit[order], prepend=-1))
    place = np.arange(y.size) - starts[unit[order]]
    by_stratum = np.argsort(stratum, kind="stable")
    keys = np.random.default_rng(seed).random((n, stratum.size))
    drawn = np.empty((n, stratum.size), dtype=np.int64)
    drawn[:, by_stratum] = np.argsort(keys + stratum, axis=1)
    permuted = np.empty((n, y.size), dtype=np.int64)
    permuted[:, order] = y[order][starts[drawn[:, unit[order]]] + place]
    return permuted
