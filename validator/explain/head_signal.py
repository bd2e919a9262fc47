"""Which heads carry the signal: how well one head's own columns tell valid from invalid traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from validator.classifier import ValidityClassifier
from validator.columns import Column
from validator.errors import FeatureMismatchError, LabelError
from validator.metrics import (
    Interval,
    Resampler,
    auroc,
    auroc_statistic,
    clustered_interval,
    length_matched_statistic,
)
from validator.splits import problem_folds
from validator.types import FeatureMatrix, Progress

__all__ = ["HeadSignal", "head_columns", "head_signal"]

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]
Head = tuple[int, int]
N_INNER = 3


@dataclass(frozen=True, slots=True, eq=False)
class HeadSignal:
    """Out-of-fold AUROC of each head alone, beside what has to be beaten."""

    heads: tuple[Head, ...]
    """(K,) layer and head."""
    columns: int
    """Columns of one head."""
    auroc: tuple[Interval, ...]
    """(K,) of a logistic regression on the head's own columns."""
    beside: Mapping[str, Interval]
    """Completion length and mean log-prob as they are; all heads' columns together; and the best
    head as chosen inside the training folds, which is what choosing one is worth."""
    equal_length: Mapping[str, Interval | None]
    """The same four between traces whose completions fall in the same tenth of lengths; None where
    no tenth holds both labels."""
    chosen: tuple[Head, ...]
    """The head that each training part chose."""
    traces: int
    valid: int
    problems: int


def head_columns(names: Sequence[str]) -> dict[Head, Rows]:
    """(layer, head) -> indices of its own columns, ascending by layer and head.

    Raises:
        FeatureMismatchError: no column is of a single head.
    """
    found: dict[Head, list[int]] = {}
    for i, name in enumerate(names):
        column = Column.parse(name)
        if column.layer is not None and column.head is not None:
            found.setdefault((column.layer, column.head), []).append(i)
    if not found:
        raise FeatureMismatchError("the features hold no columns of single heads; extract a "
                                   "feature set that has them, e.g. default or fast")
    return {head: np.array(found[head]) for head in sorted(found)}


def head_signal(
    features: FeatureMatrix, *, n_splits: int = 5, n_resamples: int = 1000, seed: int = 0,
    progress: Progress | None = None,
) -> HeadSignal:
    """Cross-validate one logistic regression per head, folds never sharing a problem.

    The best of many heads looks better than it is. What choosing one is worth is computed apart:
    in each training part the head with the highest inner out-of-fold AUROC is chosen and scores the
    test part.

    Args:
        features: labelled, with columns of single heads.
        n_splits: outer folds; the choice has 3 inner ones.
        n_resamples: bootstrap resamples of problems, shared by all intervals.
        seed: of folds and resamples.
        progress: called with (done, total) heads.

    Raises:
        LabelError: unlabelled traces, one class only, or too few problems.
        FeatureMismatchError: no columns of single heads.
    """
    columns = head_columns(features.names)
    fits = _Fits(features, n_splits, seed)
    outer, inner = [], []
    for where in columns.values():
        outer.append(fits.out_of_fold(where))
        inner.append(fits.inner_auroc(where))
        if progress is not None:
            progress(len(outer), len(columns))
    heads, best = tuple(columns), np.argmax(inner, axis=0)
    scores = {
        "completion length": features.lengths[:, 1].astype(np.float64),
        "mean log-prob": features.select([str(Column("mean_logprob"))])[:, 0].astype(np.float64),
        "best head, chosen in training folds": fits.assembled([outer[b] for b in best]),
        "all heads together": fits.out_of_fold(np.concatenate(list(columns.values()))),
    }
    judge = _Judge(features, n_resamples, seed)
    return HeadSignal(
        heads, len(next(iter(columns.values()))), tuple(judge.pooled(s) for s in outer),
        {name: judge.pooled(s) for name, s in scores.items()},
        {name: judge.at_equal_length(s) for name, s in scores.items()},
        tuple(heads[b] for b in best), len(features), int(features.labels.sum()),
        len(np.unique(features.problem_ids)))


class _Fits:
    """Logistic regressions on some columns, under the same folds for all."""

    def __init__(self, features: FeatureMatrix, n_splits: int, seed: int) -> None:
        self.values, self.y, self.groups = features.values, features.labels, features.problem_ids
        self.folds = problem_folds(self.groups, self.y, n_splits, seed)
        self.inner = [[(train[fit], train[held]) for fit, held in problem_folds(
            self.groups[train], self.y[train], N_INNER, seed)] for train, _ in self.folds]

    def out_of_fold(self, where: Rows, folds: Sequence[tuple[Rows, Rows]] | None = None) -> Scores:
        """(N,) log-odds, each row's by a model that never saw its problem; NaN in no fold."""
        X, scores = self.values[:, where], np.full(len(self.y), np.nan)
        for train, test in self.folds if folds is None else folds:
            model = ValidityClassifier("logistic").fit(
                X[train], self.y[train], groups=self.groups[train])
            scores[test] = model.decision_function(X[test])
        return scores

    def inner_auroc(self, where: Rows) -> list[float]:
        """AUROC inside each training part, whose test part is not looked at."""
        return [auroc(self.y[train], self.out_of_fold(where, inner)[train])
                for (train, _), inner in zip(self.folds, self.inner, strict=True)]

    def assembled(self, by_fold: Sequence[Scores]) -> Scores:
        """Each test part's rows of the scores given for its fold."""
        scores = np.full(len(self.y), np.nan)
        for (_, test), own in zip(self.folds, by_fold, strict=True):
            scores[test] = own[test]
        return scores


class _Judge:
    def __init__(self, features: FeatureMatrix, n_resamples: int, seed: int) -> None:
        self.y, self.lengths = features.labels, features.lengths[:, 1]
        self.resampler = Resampler(features.problem_ids, n_resamples, seed)

    def pooled(self, scores: Scores) -> Interval:
        return clustered_interval(auroc_statistic(self.y, scores, self.resampler), self.resampler)

    def at_equal_length(self, scores: Scores) -> Interval | None:
        try:
            return clustered_interval(length_matched_statistic(
                self.y, scores, self.lengths, self.resampler), self.resampler)
        except LabelError:
            return None
