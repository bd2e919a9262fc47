"""One column, its direction and a threshold from a small labelled set, and what they are worth.

The best of several hundred columns looks good on the labels it was chosen by. What it does on other
problems is a separate number, and both are reported side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from validator.columns import Column
from validator.errors import LabelError, ParameterError
from validator.metrics import (
    Interval,
    Resampler,
    Statistic,
    auroc,
    auroc_statistic,
    clustered_interval,
    paired_difference,
)
from validator.metrics.inputs import as_groups, as_labels, require_both_classes
from validator.splits import problem_folds
from validator.types import FeatureMatrix

__all__ = ["CRITERIA", "CalibratedThreshold", "ThresholdReport"]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

CRITERIA = ("youden", "accuracy")

_BLOCK = 512  # columns searched at once: 1,000 traces by 512 columns of doubles are 4 MB


@dataclass(frozen=True, slots=True, eq=False)
class ThresholdReport:
    """What a calibrated threshold is worth, on its own labels and on problems it never saw.

    Mappings have the keys ``accuracy``, ``balanced_accuracy``, ``auroc``; intervals resample whole
    problems and do not include the choice itself, which is why the in-sample ones are too high.
    """

    in_sample: Mapping[str, Interval]
    """Chosen and judged on the same labels."""
    out_of_sample: Mapping[str, Interval]
    """Each trace judged by a column, direction and threshold chosen on other problems."""
    optimism: Mapping[str, Interval]
    """In sample minus out of sample, on the same resamples."""
    chosen: tuple[tuple[str, int, float], ...]
    """Column, direction and threshold of each fold."""
    scores: Array
    """(N,) out-of-sample, as :meth:`CalibratedThreshold.score`."""
    predictions: Labels
    """(N,) out-of-sample, 1 valid."""
    undefined: int
    """Traces on which the column chosen for them is NaN: score 0.5, called invalid."""
    n_splits: int
    seed: int


class CalibratedThreshold(BaseEstimator):  # type: ignore[misc]
    """The base paper's recipe: the best single column, cut at the best place.

    Every candidate is tried in both directions at every cut between neighbouring values; the one
    with the largest criterion is kept, the larger |AUROC - 1/2| on a tie, then the first.
    Needs labels of both classes; a few problems are enough to run it and too few to trust its
    in-sample numbers: see :meth:`out_of_sample`.

    Parameters
    ----------
    candidates : column names to choose among; None: every column of the head-mean graph (layer x
        descriptor), as in the base paper. A candidate with a NaN in the labelled traces is left
        out, and named in ``excluded_``.
    criterion : "youden" (sensitivity + specificity - 1; Youden 1950) or "accuracy".

    Attributes
    ----------
    column_, direction_ (+1 or -1), threshold_ (valid means direction_ x value > threshold_;
    infinite where calling every trace the same is best), value_ (the criterion on the labelled
    traces), excluded_, n_groups_ (problems seen), reference_ (the labelled traces' direction_ x
    value, sorted).
    """

    def __init__(self, candidates: Sequence[str] | None = None, *,
                 criterion: str = "youden") -> None:
        self.candidates = candidates
        self.criterion = criterion

    def fit(self, features: FeatureMatrix, labels: ArrayLike | None = None,
            groups: Sequence[Any] | NDArray[Any] | None = None) -> CalibratedThreshold:
        """Choose column, direction and threshold.

        ``labels``, ``groups`` (N,), by default the traces' own labels and problems; problems are
        only counted here. Raises LabelError for labels of one class or missing ones,
        ParameterError where no candidate is left.
        """
        if self.criterion not in CRITERIA:
            raise ParameterError(f"criterion must be one of {', '.join(CRITERIA)}, got "
                                 f"{self.criterion!r}")
        y = as_labels(features.labels if labels is None else labels)
        require_both_classes(y)
        problems = features.problem_ids if groups is None else groups
        self.n_groups_ = int(as_groups(problems, len(features))[0].size)
        self.provenance_ = features.provenance
        names, values = self._candidates(features)
        if values.shape[0] != y.size:
            raise LabelError(f"expected {values.shape[0]} labels, one for each trace, got {y.size}")
        best = _choose(values, y, self.criterion)
        self.column_, self.direction_ = names[best.column], best.direction
        self.threshold_, self.value_ = best.threshold, best.value
        self.reference_: Array = np.sort(best.direction * values[:, best.column])
        return self

    def score(self, features: FeatureMatrix) -> Array:
        """(N,) mid-rank of direction x value among the labelled traces' values, in [0, 1].

        Ranks, so that scores by different columns can be pooled. A NaN ranks 0.5, as no evidence.
        """
        values = self._oriented(features)
        low, high = (np.searchsorted(self.reference_, values, side=side)
                     for side in ("left", "right"))
        ranks = (low + high) / (2 * self.reference_.size)
        return np.asarray(np.where(np.isnan(values), 0.5, ranks))

    def predict(self, features: FeatureMatrix) -> Labels:
        """(N,) 1 where direction x value exceeds the threshold; an undefined trace is called 0."""
        return (self._oriented(features) > self.threshold_).astype(np.int64)

    def out_of_sample(self, features: FeatureMatrix, n_splits: int = 5, seed: int = 0, *,
                      labels: ArrayLike | None = None,
                      groups: Sequence[Any] | NDArray[Any] | None = None,
                      n_resamples: int = 1000) -> ThresholdReport:
        """Problem-grouped cross-fitting beside the in-sample numbers; this object stays as it is.

        Column, direction and threshold of a fold come from the other folds' labels alone.
        Raises as :meth:`fit` and :func:`validator.splits.problem_folds`.
        """
        y = as_labels(features.labels if labels is None else labels)
        problems = np.asarray(features.problem_ids if groups is None else groups)
        scores, predictions = np.full(y.size, np.nan), np.zeros(y.size, dtype=np.int64)
        chosen, undefined = [], 0
        for train, test in problem_folds(problems, y, n_splits, seed):
            fold = clone(self).fit(features.take(train), y[train], problems[train])
            held_out = features.take(test)
            scores[test], predictions[test] = fold.score(held_out), fold.predict(held_out)
            undefined += int(np.isnan(fold._oriented(held_out)).sum())
            chosen.append((fold.column_, fold.direction_, fold.threshold_))
        whole = clone(self).fit(features, y, problems)
        resampler = Resampler(problems, n_resamples, seed)
        seen = _statistics(y, whole.score(features), whole.predict(features), resampler)
        unseen = _statistics(y, scores, predictions, resampler)
        return ThresholdReport(
            in_sample={k: clustered_interval(s, resampler) for k, s in seen.items()},
            out_of_sample={k: clustered_interval(s, resampler) for k, s in unseen.items()},
            optimism={k: paired_difference(seen[k], unseen[k], resampler) for k in seen},
            chosen=tuple(chosen), scores=scores, predictions=predictions, undefined=undefined,
            n_splits=n_splits, seed=seed)

    def _candidates(self, features: FeatureMatrix) -> tuple[list[str], Array]:
        """Names and values (N, C) of the candidates without NaN; names the others in excluded_."""
        asked = _head_mean(features.names) if self.candidates is None else list(self.candidates)
        values = features.select(asked).astype(np.float64)
        gaps = np.flatnonzero(np.isnan(values).any(axis=0))
        self.excluded_ = tuple(asked[i] for i in gaps)
        if len(gaps) == len(asked):
            raise ParameterError(
                f"no candidate is left of {len(asked)}: {len(self.excluded_)} are undefined on a "
                "labelled trace; name columns in `candidates`, or leave out the traces whose "
                "features are NaN")
        return np.delete(asked, gaps).tolist(), np.delete(values, gaps, axis=1)

    def _oriented(self, features: FeatureMatrix) -> Array:
        check_is_fitted(self)
        self.provenance_.require_equal(features.provenance, "features for this threshold")
        values = features.select([self.column_])[:, 0].astype(np.float64)
        return np.asarray(self.direction_ * values)


def _head_mean(names: Sequence[str]) -> list[str]:
    columns = {n: Column.parse(n) for n in names}
    return [n for n, c in columns.items()
            if not c.is_baseline and not c.is_state and c.head is None]


@dataclass(frozen=True, slots=True)
class _Choice:
    column: int
    direction: int
    threshold: float
    value: float


def _choose(values: Array, y: Labels, criterion: str) -> _Choice:
    """The best of (N, C) columns without NaN, both directions, every cut."""
    found = [_best_cuts(values[:, i:i + _BLOCK], y, criterion)
             for i in range(0, values.shape[1], _BLOCK)]
    best, direction, threshold = (np.concatenate(part) for part in zip(*found, strict=True))
    tied = np.flatnonzero(best >= best.max() - 1e-12)
    separation = [abs(auroc(y, values[:, c]) - 0.5) for c in tied]
    c = int(tied[int(np.argmax(separation))])
    return _Choice(c, int(direction[c]), float(threshold[c]), float(best[c]))


def _best_cuts(X: Array, y: Labels, criterion: str) -> tuple[Array, Array, Array]:
    """(N, C) columns -> each one's best criterion, direction and threshold, (C,) each.

    Cut i has the i smallest values below it; 0 and N put every trace on one side.
    """
    n, valid = y.size, int(y.sum())
    order = np.argsort(X, axis=0, kind="stable")
    ranked = np.take_along_axis(X, order, axis=0)
    edge = np.zeros((1, X.shape[1]))
    valid_below = np.vstack([edge, np.cumsum(y[order], axis=0)])
    invalid_below = np.arange(n + 1)[:, None] - valid_below
    if criterion == "youden":
        above = (valid - valid_below) / valid + invalid_below / (n - valid) - 1
        below = -above  # calling the lower side valid turns every answer around
    else:
        above = (valid - valid_below + invalid_below) / n
        below = 1 - above
    between = np.vstack([edge == 0, ranked[1:] > ranked[:-1], edge == 0])
    gain = np.where(between, np.maximum(above, below), -np.inf)
    cut = gain.argmax(axis=0)
    columns = np.arange(X.shape[1])
    padded = np.vstack([edge - np.inf, ranked, edge + np.inf])
    middle = padded[cut, columns] / 2 + padded[cut + 1, columns] / 2
    direction = np.where(above[cut, columns] >= below[cut, columns], 1.0, -1.0)
    return gain[cut, columns], direction, direction * middle


def _statistics(y: Labels, scores: Array, predictions: Labels, resampler: Resampler
                ) -> dict[str, Statistic]:
    return {"accuracy": _recall(np.ones(y.size, dtype=bool), predictions == y, resampler),
            "balanced_accuracy": _balanced(y, predictions, resampler),
            "auroc": auroc_statistic(y, scores, resampler)}


def _recall(rows: NDArray[np.bool_], right: NDArray[np.bool_], resampler: Resampler) -> Statistic:
    """Share of the chosen rows that are right; NaN on a draw without any."""
    p = resampler.problems.size
    hits = np.bincount(resampler.index, weights=rows & right, minlength=p)
    total = np.bincount(resampler.index, weights=rows, minlength=p)

    def statistic(counts: Labels) -> Array:
        bottom = counts @ total
        ratio: Array = np.full(bottom.shape, np.nan)
        np.divide(counts @ hits, bottom, out=ratio, where=bottom > 0)
        return ratio

    return statistic


def _balanced(y: Labels, predictions: Labels, resampler: Resampler) -> Statistic:
    """Mean of sensitivity and specificity; NaN on a draw of one class."""
    right = predictions == y
    valid, invalid = (_recall(y == c, right, resampler) for c in (1, 0))
    return lambda counts: (valid(counts) + invalid(counts)) / 2
