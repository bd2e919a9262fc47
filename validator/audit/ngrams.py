"""Text models that are fitted many times: texts are cut into n-grams once, then only weighed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression

from validator.errors import LabelError

__all__ = ["NgramTable"]

Rows = NDArray[np.int64]
Array = NDArray[np.float64]

_BLOCK = 64  # labellings whose class means are in memory at once


class NgramTable:
    """N-gram counts of N texts, and two classifiers on them.

    Args:
        analyzer: ``char``: 1-5-grams of characters, as :class:`validator.audit.SurfaceBaseline`
            reads; ``word``: single words.
        C: inverse strength of the L2 penalty of :meth:`fit_score`.

    Attributes:
        counts_: (N, V) sparse, the number of times each n-gram is in each text.
    """

    def __init__(self, analyzer: str = "char", C: float = 10.0) -> None:
        self.analyzer = analyzer
        self.C = C

    def fit(self, texts: Sequence[str]) -> NgramTable:
        """Count. Raises LabelError if no text holds anything to count."""
        spans = (1, 5) if self.analyzer == "char" else (1, 1)
        # Words as white space parts them: the default pattern would drop single characters.
        pattern = {} if self.analyzer == "char" else {"token_pattern": r"\S+"}
        try:
            self.counts_: Any = CountVectorizer(
                analyzer=self.analyzer, ngram_range=spans, **pattern).fit_transform(texts)
        except ValueError as error:  # scikit-learn's word for no n-gram at all
            raise LabelError(f"the texts hold no {self.analyzer} to read: {error}") from error
        return self

    def fit_score(self, train: Rows, test: Rows, labels: NDArray[np.int64]) -> Array:
        """Log-odds of valid of the ``test`` rows by a logistic fitted to the ``train`` rows.

        The same model as :class:`validator.audit.SurfaceBaseline` fitted to the training texts
        (sublinear TF-IDF, n-grams of two training texts or more). ``labels`` (N,).
        """
        learnt = self.counts_[train]
        known = np.flatnonzero(np.bincount(learnt.indices, minlength=learnt.shape[1]) >= 2)
        if known.size == 0:
            raise LabelError("no n-gram is in two training texts; there is nothing to learn from")
        weigh = TfidfTransformer(sublinear_tf=True).fit(learnt[:, known])
        model = LogisticRegression(C=self.C, max_iter=1000, solver="liblinear", random_state=0)
        model.fit(weigh.transform(learnt[:, known]), labels[train])
        scores = model.decision_function(weigh.transform(self.counts_[test][:, known]))
        return np.asarray(scores, dtype=np.float64)

    def centroid_scores(self, labels: NDArray[np.int64], folds: Sequence[tuple[Rows, Rows]]
                        ) -> Array:
        """Out-of-fold scores (B, N) of a nearest-mean classifier for each labelling (B, N).

        The product of a text's TF-IDF vector, less the training mean, with the sum over training
        texts of vector * (label - share valid): Rocchio's classifier. Linear in the labels, so
        that hundreds of labellings cost a few sparse products. TF-IDF weights are those of all
        texts; they have seen no label.
        """
        seen = np.flatnonzero(np.bincount(self.counts_.indices) >= 2)  # others match no other text
        vectors = TfidfTransformer(sublinear_tf=True).fit_transform(self.counts_[:, seen])
        parts = [(train, test, vectors[test]) for train, test in folds]
        whole = np.asarray(vectors.sum(axis=0)).ravel()
        result = np.empty(labels.shape, dtype=np.float64)
        for start in range(0, len(labels), _BLOCK):
            block = labels[start:start + _BLOCK].T.astype(np.float64)
            valid = vectors.T @ block
            for train, test, part in parts:
                # Sums over the training texts: all texts' less the fold's own.
                total = whole - np.asarray(part.sum(axis=0)).ravel()
                direction = valid - part.T @ block[test]
                direction -= total[:, None] * block[train].mean(axis=0)
                scores = part @ direction - (total / len(train)) @ direction
                result[start:start + _BLOCK, test] = scores.T
        return result
