"""Out-of-sample scores, problem by problem, of the spectra and of everything they must beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from validator.audit import BestSingleColumn, SurfaceBaseline, surface_texts
from validator.classifier import ValidityClassifier
from validator.columns import Column
from validator.families import column_families
from validator.splits import problem_folds
from validator.types import FeatureMatrix, Progress

__all__ = [
    "FAMILIES", "CrossValidated", "bounded", "column_families", "cross_validate", "stack",
]

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]

TOKEN_BASELINES = ("completion_length", "mean_logprob", "min_logprob", "mean_token_entropy")
FAMILIES = {
    "length": "completion length",
    "logprob": "mean log-prob",
    "surface": "surface (char 1-5-grams)",
    "single": "best single graph feature",
    "spectra": "attention spectra",
    "learned": "spectra + token signals",
    "probe": "hidden-state probe",
    "length+logprob": "length + log-prob",
    "length+logprob+learned": "length + log-prob + spectra",
    "baselines": "length + log-prob + surface",
    "baselines+learned": "all three + spectra",
}
"""Every score of the comparison and its name in tables; ``learned`` is the classifier's score.
``probe`` is there where the features hold hidden states (``--features default+probe``), ``single``
where they hold descriptors of a head-mean graph (the set ``fast`` has none)."""

CERTAIN = 30.0
"""Log-odds of a chance of 1e-13; what lies beyond is no better known."""

_STACKS = {
    "length+logprob+learned": ("learned",),
    "baselines": ("surface",),
    "baselines+learned": ("surface", "learned"),
}
"""What each stack adds to length and log-prob."""


@dataclass(frozen=True)
class CrossValidated:
    """Out-of-fold scores: every row was scored by models that never saw its problem."""

    features: FeatureMatrix
    scores: Mapping[str, Scores]
    """Key of :data:`FAMILIES` -> (N,), higher means more valid."""
    n_splits: int
    seed: int
    chosen_columns: tuple[str, ...]
    """The best single column of each fold."""
    classifier: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of the learned score's classifier."""


def cross_validate(
    features: FeatureMatrix,
    classifier: ValidityClassifier,
    *,
    n_splits: int = 10,
    n_inner: int = 3,
    seed: int = 0,
    learned: Scores | None = None,
    progress: Progress | None = None,
) -> CrossValidated:
    """Out-of-fold scores of every family under problem-grouped folds.

    Stacked scores are logistic regressions on the baselines and on inner out-of-fold scores of
    their parts: the outer test problems touch neither level.

    Args:
        features: labelled; at least ``n_splits`` problems.
        classifier: unfitted; cloned for every fit of the spectral families.
        n_splits: outer folds.
        n_inner: folds inside each training part, for the stacks.
        seed: of the folds.
        learned: (N,) scores of a classifier trained on other problems; it is then judged as it
            stands, and only the baselines are refitted.
        progress: called with (done, total) folds.

    Raises:
        LabelError: unlabelled traces, one class only, or too few problems.
    """
    y = features.labels
    parts = _parts(features, classifier, learned)
    graph = _graph_columns(features)
    absent = {"probe"} - set(parts) | ({"single"} if not graph else set())
    scores = {key: np.full(len(y), np.nan) for key in FAMILIES if key not in absent}
    baselines = features.select([str(Column(b)) for b in TOKEN_BASELINES])
    scores["length"] = baselines[:, 0].astype(np.float64)
    scores["logprob"] = baselines[:, 1].astype(np.float64)
    chosen: list[str] = []
    folds = problem_folds(features.problem_ids, y, n_splits, seed)
    for i, (train, test) in enumerate(folds):
        if graph:
            single = _best_single(features, graph, train)
            chosen.append(features.names[single[0]])
            scores["single"][test] = single[1](test)
        inner = problem_folds(features.problem_ids[train], y[train], n_inner, seed)
        fold = _fold_scores(parts, baselines, y, train, test, inner)
        for key, values in fold.items():
            scores[key][test] = values
        if progress is not None:
            progress(i + 1, n_splits)
    return CrossValidated(features, scores, n_splits, seed, tuple(chosen), classifier.get_params())


Part = Callable[[Rows, Rows], Scores]
"""(train rows, test rows) -> scores of the test rows by a model fitted on the training rows."""


def _parts(
    features: FeatureMatrix, classifier: ValidityClassifier, given: Scores | None
) -> dict[str, Part]:
    y, texts = features.labels, surface_texts(features.traces)
    families = column_families(features.names)

    def surface(train: Rows, test: Rows) -> Scores:
        model = SurfaceBaseline().fit([texts[i] for i in train], y[train])
        return model.decision_function([texts[i] for i in test])

    def fitted(family: str, kind: ValidityClassifier) -> Part:
        X = features.values[:, families[family]]

        def part(train: Rows, test: Rows) -> Scores:
            model = clone(kind).fit(X[train], y[train], groups=features.problem_ids[train])
            return np.asarray(model.decision_function(X[test]), dtype=np.float64)

        return part

    parts = {"surface": surface, "spectra": fitted("spectra", classifier),
             "learned": fitted("learned", classifier)}
    if families["probe"].size:
        parts["probe"] = fitted("probe", ValidityClassifier("logistic"))
    if given is not None:
        parts["learned"] = lambda _, test: np.asarray(given, dtype=np.float64)[test]
    return parts


def _fold_scores(
    parts: Mapping[str, Part], baselines: NDArray[np.float32], y: NDArray[np.int64],
    train: Rows, test: Rows, inner: Sequence[tuple[Rows, Rows]],
) -> dict[str, Scores]:
    result = {key: part(train, test) for key, part in parts.items()}
    within = {key: np.full(len(train), np.nan) for key in ("surface", "learned")}
    for fit, held_out in inner:
        for key, values in within.items():
            values[held_out] = parts[key](train[fit], train[held_out])
    result["length+logprob"] = stack(baselines[train], y[train], baselines[test])
    for key, added in _STACKS.items():
        below = np.column_stack([baselines[train], *(bounded(within[a]) for a in added)])
        above = np.column_stack([baselines[test], *(bounded(result[a]) for a in added)])
        result[key] = stack(below, y[train], above)
    return result


def bounded(log_odds: Scores) -> Scores:
    """Log-odds as they enter a stack: none beyond :data:`CERTAIN`.

    One trace far outside the training columns can get log-odds in the thousands from a linear
    model; a stack fitted to it would serve that trace alone.
    """
    return np.clip(log_odds, -CERTAIN, CERTAIN)


def stack(train: NDArray[Any], labels: NDArray[np.int64], test: NDArray[Any]) -> Scores:
    """Log-odds (M,) of test columns (M, K) by a logistic regression on training columns (N, K)."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    return np.asarray(model.fit(train, labels).decision_function(test), dtype=np.float64)


def _graph_columns(features: FeatureMatrix) -> list[int]:
    """The head-mean graph's own descriptors, few enough to be named; some sets have none."""
    return [
        i for i, name in enumerate(features.names)
        if (c := Column.parse(name)).layer is not None and c.head is None
        and c.signal in ("", "hidden") and not c.is_state
    ]


def _best_single(
    features: FeatureMatrix, where: Sequence[int], train: Rows
) -> tuple[int, Callable[[Rows], Scores]]:
    X = features.values[:, where]
    model = BestSingleColumn().fit(X[train], features.labels[train])
    return where[model.column_], lambda rows: model.decision_function(X[rows])
