"""The checks every statistic runs on its arguments, so that none returns NaN quietly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from validator.errors import LabelError, ScoreError

__all__ = ["as_groups", "as_labels", "as_probabilities", "as_scores", "require_both_classes"]


def as_labels(labels: ArrayLike) -> NDArray[np.int64]:
    """(N,) labels as 0 / 1 integers. Raises LabelError for anything else, and for no labels."""
    y = np.asarray(labels)
    if y.ndim != 1 or y.size == 0:
        raise LabelError(f"expected labels of shape (N,) with N > 0, got shape {y.shape}")
    wrong = [value for value in y.tolist() if value not in (0, 1)]
    if wrong:
        raise LabelError(f"labels must be 1 (valid) or 0 (invalid), got {wrong[0]!r}; "
                         "leave out the traces whose label is unknown")
    return y.astype(np.int64)


def require_both_classes(y: NDArray[np.int64]) -> None:
    """Raise LabelError unless (N,) labels hold a 0 and a 1."""
    valid = int(y.sum())
    if valid in (0, y.size):
        raise LabelError(f"only one class: {valid} of {y.size} labels are valid; "
                         "a ranking is judged on valid and invalid traces together")


def as_scores(scores: ArrayLike, n: int, what: str = "scores") -> NDArray[np.float64]:
    """(N,) real scores, infinities allowed. Raises ScoreError for a NaN or a wrong length."""
    s = np.asarray(scores, dtype=np.float64)
    if s.shape != (n,):
        raise ScoreError(f"expected {n} {what}, one for each label, got shape {s.shape}")
    if np.isnan(s).any():
        row = int(np.flatnonzero(np.isnan(s))[0])
        raise ScoreError(f"{int(np.isnan(s).sum())} of {n} {what} are NaN, first in row {row}; "
                         "a trace without a score cannot be ranked: leave it out by name")
    return s


def as_probabilities(probs: ArrayLike, n: int) -> NDArray[np.float64]:
    """(N,) probabilities in [0, 1]. Raises ScoreError outside."""
    p = as_scores(probs, n, "probabilities")
    if p.min() < 0 or p.max() > 1:
        raise ScoreError(f"probabilities must lie in [0, 1], got [{p.min():g}, {p.max():g}]; "
                         "pass P(valid), not a margin")
    return p


def as_groups(groups: Sequence[Any] | NDArray[Any], n: int) -> tuple[NDArray[Any],
                                                                     NDArray[np.int64]]:
    """Problem ids -> (sorted unique ids (P,), index of each row's problem (N,)).

    Raises LabelError unless there is one id for each of the ``n`` labels.
    """
    ids = np.asarray(groups)
    if ids.shape != (n,):
        raise LabelError(f"expected {n} problem ids, one for each label, got shape {ids.shape}")
    problems, index = np.unique(ids, return_inverse=True)
    return problems, index.astype(np.int64)
