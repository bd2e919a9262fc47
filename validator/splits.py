"""The only splitter: no problem is ever on both sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedGroupKFold

from validator.errors import LabelError, ParameterError
from validator.metrics.inputs import as_groups, as_labels, require_both_classes

__all__ = ["problem_folds"]

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]


def problem_folds(problem_ids: Sequence[Any] | NDArray[Any], labels: ArrayLike, n_splits: int = 5,
                  seed: int = 0) -> list[Fold]:
    """``n_splits`` pairs of ascending row indices (train, test); each row is tested exactly once.

    Grouped by problem, and stratified by label as well as whole problems allow. ``problem_ids``,
    ``labels`` (N,). Raises LabelError for too few problems, for a class with too few traces or
    problems to be in every training side, and for an empty fold.
    """
    if n_splits < 2:
        raise ParameterError(f"n_splits must be at least 2, got {n_splits}")
    y = as_labels(labels)
    require_both_classes(y)
    problems, index = as_groups(problem_ids, y.size)
    if problems.size < n_splits:
        raise LabelError(f"{problems.size} problems cannot make {n_splits} folds; "
                         "label more problems or ask for fewer folds")
    smallest = int(np.bincount(y).min())
    if smallest < n_splits:
        raise LabelError(f"the rarer class has {smallest} traces for {n_splits} folds; "
                         "label more of it or ask for fewer folds")
    splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    folds = [(train.astype(np.int64), test.astype(np.int64))
             for train, test in splitter.split(np.zeros(y.size), y, index)]
    for train, test in folds:
        _require_usable(y[train], test)
    return folds


def _require_usable(train_labels: NDArray[np.int64], test: NDArray[np.int64]) -> None:
    if test.size == 0 or np.unique(train_labels).size < 2:
        raise LabelError("a fold would be empty or train on one class: too few problems hold the "
                         "rarer class; label more of it or ask for fewer folds")
