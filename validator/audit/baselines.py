"""What a score must be compared with before it is believed: scores that never saw a spectrum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from validator.metrics import auroc
from validator.types import Trace

__all__ = ["BestSingleColumn", "SurfaceBaseline", "surface_texts", "texts_beside"]


def surface_texts(traces: Sequence[Trace]) -> list[str]:
    """Question and answer as text, less the leading characters that all prompts share.

    The shared part (exemplars, instructions) is the same for both classes, so it can carry
    nothing, and cutting it makes the baseline stronger and faster.
    """
    shared = _shared([t.prompt for t in traces])
    return [t.prompt[shared:] + t.completion for t in traces]


def texts_beside(known: Sequence[Trace], traces: Sequence[Trace]) -> list[str]:
    """As :func:`surface_texts` of ``known``, of traces that are scored later, few at a time.

    A prompt loses what it begins with of the part that the prompts of ``known`` share: the
    prompts of one problem's answers alone would share the question, too.
    """
    shared = known[0].prompt[: _shared([t.prompt for t in known])]
    return [t.prompt[_shared([shared, t.prompt]):] + t.completion for t in traces]


def _shared(texts: Sequence[str]) -> int:
    """How many leading characters all texts share."""
    low, high = min(texts), max(texts)
    differ = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return next(differ, min(len(low), len(high)))


class SurfaceBaseline:
    """Character 1-5-grams of question and answer, logistic: what the text alone gives away.

    Args:
        C: inverse strength of the L2 penalty.
    """

    def __init__(self, C: float = 10.0) -> None:
        self.C = C

    def fit(self, texts: Sequence[str], labels: ArrayLike) -> SurfaceBaseline:
        """Learn from texts and their labels, 1 valid and 0 invalid."""
        self.pipeline_: Pipeline = make_pipeline(
            TfidfVectorizer(analyzer="char", ngram_range=(1, 5), sublinear_tf=True, min_df=2),
            LogisticRegression(C=self.C, max_iter=1000, solver="liblinear", random_state=0),
        ).fit(texts, labels)
        return self

    def decision_function(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(N,) log-odds of valid."""
        return np.asarray(self.pipeline_.decision_function(texts), dtype=np.float64)


class BestSingleColumn:
    """The one column, with its sign, that separates the training labels best.

    The choice is part of the fit, so that its score on other rows is an honest one; a column
    picked by looking at all labels would win among thousands by chance alone.

    Attributes:
        column_: index of the chosen column.
        sign_: +1.0 or -1.0.
    """

    def fit(self, X: NDArray[np.floating], labels: ArrayLike) -> BestSingleColumn:
        """Choose among the columns of X (N, F); columns holding NaN are not candidates."""
        y = np.asarray(labels)
        separations = _column_aurocs(np.asarray(X, dtype=np.float64), y) - 0.5
        self.column_ = int(np.argmax(np.abs(separations)))
        self.sign_ = 1.0 if separations[self.column_] >= 0 else -1.0
        self._reference = np.sort(np.asarray(X[:, self.column_], dtype=np.float64))
        return self

    def decision_function(self, X: NDArray[np.floating]) -> NDArray[np.float64]:
        """(N,) signed rank of the column's value among the training values, in [-1, 1].

        Ranks, and not values, so that scores by different columns can be pooled. NaN ranks in
        the middle, as no evidence.
        """
        values = np.asarray(X[:, self.column_], dtype=np.float64)
        low = np.searchsorted(self._reference, values, side="left")
        high = np.searchsorted(self._reference, values, side="right")
        rank = (low + high) / len(self._reference) - 1.0
        return self.sign_ * np.where(np.isnan(values), 0.0, rank)


def _column_aurocs(X: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """(F,) AUROC of each column; 0.5 for columns with NaN. Ties count half (midranks)."""
    usable = np.isfinite(X).all(axis=0)
    result = np.full(X.shape[1], 0.5)
    for j in np.flatnonzero(usable):
        result[j] = auroc(y, X[:, j])
    return result
