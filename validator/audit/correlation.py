"""Which features are length in disguise: rank correlation of every column with length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.columns import Column
from validator.errors import ScoreError

__all__ = ["FamilyCorrelation", "family_correlations", "midranks", "spearman"]

Array = NDArray[np.float64]

HIGH = 0.5
"""Above this |rho| a column counts as following length."""

_BLOCK = 256  # columns ranked at once


def midranks(X: ArrayLike) -> Array:
    """(N,) or (N, F) finite values -> ranks 1..N along the first axis, tied ones averaged."""
    values = np.asarray(X, dtype=np.float64)
    if np.isnan(values).any():
        raise ScoreError("a NaN has no rank; leave out the rows that hold one")
    order = np.argsort(values, axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    places = np.arange(len(values)).reshape(-1, *[1] * (values.ndim - 1))
    edge = np.ones((1, *values.shape[1:]), dtype=bool)
    new = ranked[1:] != ranked[:-1]
    first = np.maximum.accumulate(np.where(np.r_[edge, new], places, 0), axis=0)
    last = np.where(np.r_[new, edge], places, len(values))
    last = np.minimum.accumulate(last[::-1], axis=0)[::-1]
    result = np.empty_like(values)
    np.put_along_axis(result, order, (first + last) / 2 + 1, axis=0)
    return result


def spearman(X: NDArray[np.floating], v: ArrayLike) -> Array:
    """(F,) Spearman's rho of each column of X (N, F) with v (N,).

    A column with NaN is correlated over its other rows. NaN for a constant, and for fewer than
    three rows.
    """
    target = np.asarray(v, dtype=np.float64)
    result = np.full(X.shape[1], np.nan)
    gaps = np.isnan(X).any(axis=0)
    whole = np.flatnonzero(~gaps)
    for start in range(0, len(whole), _BLOCK):
        block = whole[start:start + _BLOCK]
        result[block] = _rank_correlation(np.asarray(X[:, block], np.float64), target)
    for j in np.flatnonzero(gaps):
        rows = ~np.isnan(X[:, j])
        result[j] = _rank_correlation(np.asarray(X[rows, j:j + 1], np.float64), target[rows])[0]
    return result


def _rank_correlation(X: Array, v: Array) -> Array:
    if len(v) < 3:
        return np.full(X.shape[1], np.nan)
    ranks, target = midranks(X), midranks(v)
    ranks, target = ranks - ranks.mean(axis=0), target - target.mean()
    scale = np.sqrt((ranks**2).sum(axis=0) * (target**2).sum())
    rho: Array = np.full(X.shape[1], np.nan)
    np.divide(target @ ranks, scale, out=rho, where=scale > 0)
    return rho


@dataclass(frozen=True, slots=True)
class FamilyCorrelation:
    """The columns of one descriptor and signal, under one transform."""

    family: str
    """Such as ``hfer of hidden``."""
    transform: str
    """``raw``, ``delta`` or the null it was corrected by."""
    columns: int
    constant: int
    """Columns without a correlation, because they are constant or all but undefined."""
    median: float | None
    """Of |rho|; None if every column is constant."""
    largest: float | None
    above: float | None
    """Share of the columns with |rho| above one half."""
    worst: str
    """The column of the largest |rho|."""


def family_correlations(
    names: Sequence[str], rho: NDArray[np.float64]
) -> tuple[FamilyCorrelation, ...]:
    """Summarise the columns' correlations (F,) by family and transform, largest median first."""
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, name in enumerate(names):
        members[_family(Column.parse(name))].append(i)
    rows = [_summary(family, transform, names, rho, np.array(where))
            for (family, transform), where in members.items()]
    return tuple(sorted(rows, key=lambda r: -1.0 if r.median is None else r.median, reverse=True))


def _family(column: Column) -> tuple[str, str]:
    signal = f" of {column.signal}" if column.signal else ""
    return column.descriptor + signal, column.transform or "raw"


def _summary(family: str, transform: str, names: Sequence[str], rho: Array,
             where: NDArray[np.int64]) -> FamilyCorrelation:
    known = where[~np.isnan(rho[where])]
    if known.size == 0:
        return FamilyCorrelation(family, transform, len(where), len(where), None, None, None, "")
    size = np.abs(rho[known])
    return FamilyCorrelation(
        family, transform, len(where), len(where) - len(known), float(np.median(size)),
        float(size.max()), float((size > HIGH).mean()), names[known[int(size.argmax())]])
