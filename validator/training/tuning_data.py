"""Feature matrices of the same traces, and classifiers fitted and scored on their rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from validator.errors import FeatureMismatchError, LabelError, ParameterError
from validator.metrics import auroc
from validator.splits import problem_folds
from validator.training.search_space import SearchSpace, Setting
from validator.types import FeatureMatrix

if TYPE_CHECKING:
    from validator.training.trials import FoldScores

__all__ = ["Fold", "TuningData"]

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]
Fold = tuple[Rows, Rows]


class TuningData:
    """Labelled traces and every set of their features; the first set is the default.

    Raises:
        ParameterError: no matrix.
        FeatureMismatchError: matrices of different traces, labels or problems.
        LabelError: unlabelled traces.
    """

    def __init__(self, features: FeatureMatrix | Mapping[str, FeatureMatrix]) -> None:
        self.matrices = _same_traces(features)
        self.first = next(iter(self.matrices.values()))
        self.y, self.groups = self.first.labels, self.first.problem_ids

    def plan(self, train: Rows, n_inner: int, seed: int) -> list[Fold]:
        """Problem-grouped inner folds of some rows, as rows of the whole."""
        inner = problem_folds(self.groups[train], self.y[train], n_inner, seed)
        folds = [(train[fit], train[held_out]) for fit, held_out in inner]
        if any(np.unique(self.y[held_out]).size < 2 for _, held_out in folds):
            raise LabelError("an inner fold would hold one class and have no AUROC: too few "
                             "problems hold the rarer class; label more of it or ask for fewer "
                             "folds")
        return folds

    def values(self, setting: Setting) -> NDArray[np.float32]:
        """(N, F) the columns a setting reads."""
        return self.matrices[setting.feature_set].select(setting.columns)

    def margins(self, setting: Setting, folds: Sequence[Fold]) -> Scores:
        """(N,) log-odds of each fold's test rows, fitted on its training rows; NaN elsewhere."""
        X, scores = self.values(setting), np.full(self.y.size, np.nan)
        for train, test in folds:
            model = clone(setting.classifier).fit(X[train], self.y[train],
                                                  groups=self.groups[train])
            scores[test] = model.decision_function(X[test])
        return scores

    def scores(self, space: SearchSpace, plan: Sequence[Fold]) -> FoldScores:
        """The objective of a search: a setting's AUROC on each of the plan's held-out parts."""
        def of(params: Mapping[str, Any]) -> Iterator[float]:
            setting = space.setting(params)
            for fold in plan:
                held_out = fold[1]
                yield auroc(self.y[held_out], self.margins(setting, [fold])[held_out])

        return of

    def fingerprint(self, space: SearchSpace, *numbers: int) -> str:
        """SHA-256 of all that the result depends on, but for the number of trials."""
        digest = hashlib.sha256(json.dumps([space.describe(), space.defaults, numbers]).encode())
        digest.update(json.dumps([self.first.trace_ids, self.groups.tolist(),
                                  self.y.tolist()]).encode())
        for name, matrix in self.matrices.items():
            digest.update(json.dumps([name, asdict(matrix.provenance), matrix.names]).encode())
            digest.update(np.ascontiguousarray(matrix.values).tobytes())
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """What was tuned on."""
        return {"traces": int(self.y.size), "problems": int(np.unique(self.groups).size),
                "valid": float(self.y.mean()),
                "feature_sets": {n: asdict(m.provenance) for n, m in self.matrices.items()}}


def _same_traces(features: FeatureMatrix | Mapping[str, FeatureMatrix]
                 ) -> Mapping[str, FeatureMatrix]:
    matrices = {"features": features} if isinstance(features, FeatureMatrix) else dict(features)
    if not matrices:
        raise ParameterError("there are no features to tune on; give at least one matrix")
    (name, first), *others = matrices.items()
    for other, matrix in others:
        if matrix.trace_ids != first.trace_ids:
            raise FeatureMismatchError(
                f"{other!r} and {name!r} are features of different traces, or in another order; "
                "extract both from the same file of traces")
        if (matrix.labels != first.labels).any() or (matrix.problem_ids
                                                     != first.problem_ids).any():
            raise FeatureMismatchError(
                f"{other!r} and {name!r} name the same traces but disagree on their labels or "
                "problems; extract both from the same file of traces")
    return matrices
