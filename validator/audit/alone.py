"""What one thing alone says about the label: formatting, or who wrote it; out of fold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from validator.audit.ngrams import NgramTable

__all__ = ["Folds", "formatting_scores", "source_scores", "text_scores"]

Array = NDArray[np.float64]
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]


def formatting_scores(values: Array, labels: NDArray[np.int64], folds: Folds) -> Array:
    """(N,) out-of-fold log-odds of a logistic on standardised formatting numbers (N, K)."""
    scores = np.full(len(labels), np.nan)
    for train, test in folds:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
        model.fit(values[train], labels[train])
        scores[test] = model.decision_function(values[test])
    return scores


def source_scores(sources: NDArray[Any], labels: NDArray[np.int64], folds: Folds) -> Array:
    """(N,) share of valid training traces of the same source, less that of all training traces.

    One trace of average luck is added to each source, so that a source seen once is no certainty
    and an unseen one scores zero. In (-1, 1).
    """
    names, index = np.unique(sources, return_inverse=True)
    scores = np.full(len(labels), np.nan)
    for train, test in folds:
        share = labels[train].mean()
        count = np.bincount(index[train], minlength=len(names))
        valid = np.bincount(index[train], labels[train], minlength=len(names))
        scores[test] = ((valid + share) / (count + 1) - share)[index[test]]
    return scores


def text_scores(table: NgramTable, labels: NDArray[np.int64], folds: Folds,
                progress: Callable[[], None] = lambda: None) -> Array:
    """(N,) out-of-fold log-odds of the logistic n-gram model of ``table``, fold by fold."""
    scores = np.full(len(labels), np.nan)
    for train, test in folds:
        scores[test] = table.fit_score(train, test, labels)
        progress()
    return scores
