"""Folds inside a training set, by problem, that do not change when rows are copied or reordered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validator.errors import LabelError, ParameterError
from validator.metrics.inputs import as_groups
from validator.splits import problem_folds

__all__ = ["Fold", "inner_folds", "out_of_fold"]

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Fold = tuple[Rows, Rows]


def inner_folds(X: Array, y: Array, groups: Sequence[Any] | NDArray[Any] | None, n_splits: int,
                seed: int) -> list[Fold]:
    """``n_splits`` pairs of row indices (train, test) of (N, F) features with (N,) 0 / 1 labels.

    ``groups`` (N,) are problem ids; without them, rows that are equal to the bit are one problem
    and all others are their own. Equal rows of a problem and label count once in the balancing of
    the folds, so that k copies of a row split like one row of weight k.
    Raises LabelError or ParameterError, naming ``calibration_folds``, where this cannot be done.
    """
    same = np.unique(_digests(X), return_inverse=True)[1]
    problem = same if groups is None else as_groups(groups, y.size)[1]
    key = np.column_stack([problem, same, y.astype(np.int64)])
    distinct, inverse = np.unique(key, axis=0, return_inverse=True)
    try:
        folds = problem_folds(distinct[:, 0], distinct[:, 2], n_splits, seed)
    except (LabelError, ParameterError) as error:
        raise type(error)(f"calibration_folds={n_splits}: {error}") from error
    where = np.empty(len(distinct), dtype=np.int64)
    for i, (_, test) in enumerate(folds):
        where[test] = i
    rows = where[inverse.ravel()]
    return [(np.flatnonzero(rows != i), np.flatnonzero(rows == i)) for i in range(n_splits)]


def out_of_fold(folds: Sequence[Fold], part: Callable[[Rows, Rows], Array]) -> Array:
    """(N,) values where ``part(train, test)`` gives those of the rows ``test``, fold by fold."""
    values = np.full(sum(test.size for _, test in folds), np.nan)
    for train, test in folds:
        values[test] = part(train, test)
    return values


def _digests(X: Array) -> NDArray[np.void]:
    """(N,) 16 bytes for each row: a key that is quick to sort however wide the row is."""
    raw = b"".join(hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in X)
    return np.frombuffer(raw, dtype="V16")
